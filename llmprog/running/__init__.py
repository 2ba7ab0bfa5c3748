"""What makes one run of a compiled program: its backends, its calls, its record, its result."""
