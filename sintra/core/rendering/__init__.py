"""Carry out what others wrote in a template language or as a pattern, in a jailed child process."""
