"""Real boards: reached, filled with files, and made to measure."""
