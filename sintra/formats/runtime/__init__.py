"""What runs a model: llama.cpp, transformers, a Python with other libraries."""
