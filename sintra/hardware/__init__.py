"""Devices: what a profile says about a file's speed and memory."""
