"""The nouns and contracts that every other part shares: no part of Sintra is imported here."""
