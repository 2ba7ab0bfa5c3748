"""Networks: the transformer, its relatives, those of the ``transformers`` library, and what makes them run fast."""
