"""For assistants: what a project knows and can do, over the Model Context Protocol."""
