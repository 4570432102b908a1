"""Tasks: what they are, the language model that lm-eval drives, the scorers, the comparison with
the baseline.
"""
