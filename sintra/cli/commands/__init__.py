"""Commands beside `optimize`: a module for each subject."""
