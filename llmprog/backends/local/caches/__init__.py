"""Where keys and values of tokens already fed are kept: for rows alike, in slots, by the texts they begin with."""
