"""Find out what this machine is."""
