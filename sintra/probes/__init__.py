"""Steps that measure. Their artifact holds measurements.json."""
