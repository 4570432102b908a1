"""Planners: functions `propose(study, state)` that return the next round's proposals."""
