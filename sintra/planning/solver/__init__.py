"""Which tensor gets which type: tensor groups, a model of the quantization loss, and the cheapest
mix under limits. Pure.
"""
