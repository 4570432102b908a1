"""Which tensor gets which type: groups of tensors, a model of the damage, and the cheapest mix
under limits. Pure.
"""
