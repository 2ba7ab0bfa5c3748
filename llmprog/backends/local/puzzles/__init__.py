"""The embedded model ``local:puzzles``: a small hybrid transformer, generator and checker for number puzzles."""
