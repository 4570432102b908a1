"""What planners are given, and what they share; pure."""
