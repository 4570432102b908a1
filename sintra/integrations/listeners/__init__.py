"""Listeners: each hears the events of a study in a process of its own."""
