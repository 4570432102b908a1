"""Planners: (study, history) -> proposals."""
