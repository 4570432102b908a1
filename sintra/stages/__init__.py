"""Steps that make files.

Sixteen modules: a kind of step is a module (hub is what two of them share), and a new one is a file
more.
"""
