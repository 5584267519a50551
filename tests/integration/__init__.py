"""Whole commits and loads: several processes, killed processes, real servers behind a faulty proxy."""
