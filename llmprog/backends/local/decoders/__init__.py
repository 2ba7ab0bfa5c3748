"""Ways of writing tokens with one transformer: autoregressive, masked diffusion, hybrid. One file each."""
