"""Steps that make files."""
