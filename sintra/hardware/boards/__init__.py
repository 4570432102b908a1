"""Real boards: connections, file copies, identities and measurements."""
