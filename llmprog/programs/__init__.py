"""Ready-made programs, each a function of its parameters that returns a ``Program``."""

from llmprog.programs.arithmetic import arithmetic
from llmprog.programs.game24 import game24

__all__ = ["arithmetic", "game24"]
