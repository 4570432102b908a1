"""Steps that make files.

Fifteen modules: a kind of step is a module, and a new one is a file more.
"""
