"""One file per wire protocol: what is sent for a call, and what an answer means."""
