"""One file per source file of `storage`."""
