"""The nouns and contracts that every other part shares: no part of Sintra is imported here.

Fourteen modules: artifacts stand apart from the other types, since a no-op imports only them.
"""
