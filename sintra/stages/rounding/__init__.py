"""Compensated rounding onto the grids of ggml."""
