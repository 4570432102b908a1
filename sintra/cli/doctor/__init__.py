"""What `doit doctor` looks at: packages, llama.cpp, the machine, the cache, the network."""
