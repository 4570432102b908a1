"""Hand a winner over: (folder of outputs/, store) -> files, a server, or a command to run."""
