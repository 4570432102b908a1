"""Read, check and put together GGUF files."""
