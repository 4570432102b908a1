"""Run a program that a model wrote in one process, and the tests that judge it in another."""
