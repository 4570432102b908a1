"""Listeners: each receives the events of a study in a process of its own."""
