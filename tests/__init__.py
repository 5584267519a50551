"""The suite. `tests/README.md` says what lies where."""
