"""What has been made: the action cache, the content-addressed store, locks, history."""
