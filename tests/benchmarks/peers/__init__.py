"""The workloads on other stores that one could pick today, each beside ours: see README.md. Not part of the suite."""
