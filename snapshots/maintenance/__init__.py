"""Maintenance: care of a store, in two calls. `plan_*` returns a plan that can be printed; `execute` does it."""
