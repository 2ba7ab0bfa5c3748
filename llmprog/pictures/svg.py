"""The elements that pictures consist of, and the colours they have in common.

Texts take the colour of the page around them, and fills are thin, so that a picture reads on light and on dark pages;
as a file of its own, whose page is unknown, it brings a light ground. Attributes carry all style: a style sheet would
reach beyond the picture.
"""

from __future__ import annotations

from dataclasses import dataclass

from llmprog.pictures.text import escaped

INK = "currentColor"
BLUE, GREEN, AMBER, RED, PURPLE, GREY = "#4a7dbd", "#2f9e5f", "#c08a1e", "#cf5b56", "#8d6cc0", "#8a8f98"
FONT = "system-ui, -apple-system, 'Segoe UI', sans-serif"

_MARGIN = 10


@dataclass(frozen=True, slots=True)
class Picture:
    """A drawing of ``width`` by ``height`` pixels; ``content`` is its elements, ``label`` says what it shows."""

    width: float
    height: float
    content: str
    label: str

    def inline(self) -> str:
        """The ``svg`` element for a page that has colours of its own."""
        return self._element("", "")

    def document(self) -> str:
        """The ``svg`` element as a file of its own, on a light ground."""
        ground = element("rect", x=-_MARGIN, y=-_MARGIN, width=self.width + 2 * _MARGIN,
                         height=self.height + 2 * _MARGIN, rx=6, fill="#ffffff")  # fmt: skip
        return self._element(' color="#24292f"', ground)

    def _element(self, attributes: str, ground: str) -> str:
        width, height = number(self.width + 2 * _MARGIN), number(self.height + 2 * _MARGIN)
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
            f'viewBox="-{_MARGIN} -{_MARGIN} {width} {height}" role="img" aria-label="{escaped(self.label)}" '
            f'font-family="{escaped(FONT)}" font-size="12" fill="none"{attributes}>{ground}{self.content}</svg>'
        )


def number(value: float) -> str:
    """A coordinate with one decimal at most."""
    written = f"{value:.1f}".removesuffix(".0")
    return "0" if written == "-0" else written


def element(name: str, content: str = "", **attributes: float | str | None) -> str:
    """An element; ``content`` is markup, attributes are escaped, and ``_`` in their names stands for ``-``."""
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escaped(value) if isinstance(value, str) else number(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    return f"<{name}{written}>{content}</{name}>" if content else f"<{name}{written}/>"


def label(x: float, y: float, text: str, **attributes: float | str | None) -> str:
    """A text whose baseline begins at ``x``, ``y``."""
    return element("text", escaped(text), x=x, y=y, **{"fill": INK, **attributes})


def titled(content: str, title: str) -> str:
    """A group that shows ``title`` where the pointer rests on it."""
    return element("g", element("title", escaped(title)) + content)


def line(path: str, colour: str, *, width: float = 1.2, opacity: float = 0.7, dashes: str | None = None) -> str:
    """A stroke along ``path``."""
    return element("path", d=path, stroke=colour, stroke_width=width, stroke_opacity=opacity, stroke_dasharray=dashes)


def arrow_head(x: float, y: float, colour: str, *, towards: str = "right") -> str:
    """A small triangle whose tip is at ``x``, ``y``."""
    sides = "l-3.5 -7h7z" if towards == "down" else "l-7 -3.5v7z"
    return element("path", d=f"M{number(x)} {number(y)}{sides}", fill=colour, fill_opacity=0.8)
