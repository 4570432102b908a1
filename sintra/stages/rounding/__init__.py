"""Rounding onto the grids of ggml: compensated, in sequence, learned, and tuned end to end."""
