"""result.json, outputs/, and what people look at."""
