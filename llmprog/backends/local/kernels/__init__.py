"""CUDA kernels for what torch does in many passes over the logits, each with its reference in torch.

``predict`` gives every position its token and how sure the model is of it; ``reveal`` writes those that are to stay
into the canvas. Both are operators of torch: on a CUDA device they are the kernels, elsewhere the references.
"""

from llmprog.backends.local.kernels.compiler import is_available
from llmprog.backends.local.kernels.predict import Predicted, predict
from llmprog.backends.local.kernels.reveal import reveal

__all__ = ["Predicted", "is_available", "predict", "reveal"]
