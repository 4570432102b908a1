"""Rounding onto the grids of ggml: compensated, in sequence, learned, and tuned end to end.

Twenty-five modules: each way of rounding, what they share (grids, codebooks, tensors, H), and the
loops for processors and GPUs.
"""
