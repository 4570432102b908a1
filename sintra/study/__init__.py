"""Rounds: propose, build, measure and judge until the limits hold."""
