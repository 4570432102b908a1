"""File formats: each module says how a variant of its format is made and measured.

They are found by name, through the entry points `sintra.formats`.
"""
