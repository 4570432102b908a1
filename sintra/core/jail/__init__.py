"""Take every right from a process that is about to run what somebody else wrote (Linux)."""
