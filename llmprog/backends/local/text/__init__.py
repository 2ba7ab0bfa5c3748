"""What a model reads and writes: prompts as tokens, tokens as text, whole or as they are written."""
