"""What an operator gets besides the software, run as an operator runs it."""
