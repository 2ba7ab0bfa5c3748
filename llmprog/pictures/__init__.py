"""Pictures of plain values, as SVG and HTML: a tree of thoughts, the graph of a program, the bars of a vote.

Nothing here knows what a search is, and nothing has to be installed. A picture has no script, no style sheet and
nothing from elsewhere; every text in it shows itself and does nothing else.
"""

from __future__ import annotations

from llmprog.pictures.flow import FlowNode, draw_flow
from llmprog.pictures.svg import Picture
from llmprog.pictures.thoughts import DrawnThought, draw_thoughts
from llmprog.pictures.votes import draw_votes

__all__ = ["DrawnThought", "FlowNode", "Picture", "draw_flow", "draw_thoughts", "draw_votes"]
