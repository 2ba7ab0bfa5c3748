"""What every server of this package needs: a socket, a token, and an orderly end."""
