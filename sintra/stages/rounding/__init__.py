"""Rounding onto the grids of ggml: compensated, in sequence, learned, and tuned end to end.

Eighteen modules: each way of rounding, what they share (grids, tensors, H), and the loops for
processors and GPUs.
"""
