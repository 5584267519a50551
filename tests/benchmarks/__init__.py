"""Workloads and what they cost. Gates are on counts and ratios, never on seconds."""
