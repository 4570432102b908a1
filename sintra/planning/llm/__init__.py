"""A language model as an adviser: the line to it, its budget, its replies, what it may say."""
