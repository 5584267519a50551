"""The contract of stores and clocks, one small file per implementation."""
