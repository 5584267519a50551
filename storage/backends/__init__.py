"""Where objects are kept: one file per backend, loaded on demand."""
