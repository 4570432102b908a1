"""Read and check checkpoints in safetensors."""
