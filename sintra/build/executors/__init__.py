"""Where workers run: each module is one executor, found through the entry points
`sintra.executors`.
"""
