"""A language model as an adviser: the connection to it, its budget, its replies, what it may say."""
