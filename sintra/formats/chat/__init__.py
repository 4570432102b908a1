"""Chat templates: rendered in a process of their own, taken apart, and what ends a turn."""
