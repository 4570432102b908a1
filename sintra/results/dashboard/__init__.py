"""A web page on this machine: studies as they run and as they ended. It reads outputs/, the store
and the history.
"""
