"""Jobs: one program over many rows, read and written as streams, resumed where they were interrupted."""
