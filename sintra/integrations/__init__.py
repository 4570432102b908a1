"""Other programs: exports, adapters, listeners."""
