"""The contract made executable: conformance suites, a store that fails on demand, a clock that is moved by hand."""
