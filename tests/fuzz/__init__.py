"""Every decoder against inputs that no writer of ours leaves."""
