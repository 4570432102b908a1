"""Adapters: a result of outputs/ as a language model of LangChain or LlamaIndex."""
