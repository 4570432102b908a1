"""Recipes become steps with keys; steps are run by workers."""
