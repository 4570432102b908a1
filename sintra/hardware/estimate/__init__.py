"""Estimate speed, memory and temperature on a device that isn't here."""
