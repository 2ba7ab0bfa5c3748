"""Checkpoints of the Llama family: Hugging Face directories and GGUF files, checked before anything is allocated."""
