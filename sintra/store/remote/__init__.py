"""A shared store: the same two key spaces as the cache, in a bucket or a folder that several
machines reach.
"""
