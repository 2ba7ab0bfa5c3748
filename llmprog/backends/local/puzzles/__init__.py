"""The embedded model ``local:puzzles``: a small hybrid transformer that plays generator and checker for number puzzles."""
