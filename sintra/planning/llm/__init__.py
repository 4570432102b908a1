"""A language model as an adviser: connection, budget, replies, and what it may say."""
