"""Shows runs in a browser: from a server on this machine, or as one file."""
