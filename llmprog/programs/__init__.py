"""Ready-made programs."""
