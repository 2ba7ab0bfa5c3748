"""What is wrong with a file of weights, before it is known for which backend it was read."""

from __future__ import annotations


class FaultyFileError(Exception):
    """A file that is not what it should be; the message says what is wrong and in which tensor."""


class UnknownHereError(FaultyFileError):
    """A file that may be whole, and asks for what our own network does not compute."""
