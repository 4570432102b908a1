"""doit's tasks and commands, the console script."""
