"""What planners are given, and what they share: what is known becomes proposals."""
