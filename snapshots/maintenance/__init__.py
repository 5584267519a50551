"""Care of a store: plans, which are printed, and their execution. Functions that take a repository."""
