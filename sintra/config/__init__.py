"""From a command line to checked options and a study."""
