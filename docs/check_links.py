"""Checks every link of the built site: `make docs` runs it on what Sphinx has written.

Links within the site must lead to a file that is there, and to an anchor that is on that page. Nothing is fetched, so
of links to other places only the form is checked; `make docs-links` asks them.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

LINKS = {"a": "href", "link": "href", "img": "src", "script": "src", "source": "srcset"}
LOADED = {"img", "script", "source"}  # a page that loads these from elsewhere would not be whole without a network


@dataclass
class Page(HTMLParser):
    """What a page links to and what can be linked to on it."""

    links: list[tuple[str, str]] = field(default_factory=list)  # tag, target
    anchors: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.anchors |= {values[name] or "" for name in ("id", "name") if name in values}
        target = values.get(LINKS.get(tag, ""))
        if target is not None:
            self.links.append((tag, target))


def faults_of(site: Path) -> list[str]:
    """One line for each link of the site that leads nowhere."""
    pages: dict[Path, Page] = {}
    for path in sorted(site.rglob("*.html")):
        pages[path] = Page()
        pages[path].feed(path.read_text())
    return [
        f"{path.relative_to(site)}: {target!r} {fault}"
        for path, page in pages.items()
        for tag, target in page.links
        if (fault := _fault(path, tag, target, pages))
    ]


def _fault(path: Path, tag: str, target: str, pages: dict[Path, Page]) -> str:
    """What is wrong with one link, or nothing."""
    parts = urlsplit(target)
    if parts.scheme or parts.netloc:
        if parts.scheme == "data":
            return ""
        if tag in LOADED:
            return "is loaded from elsewhere"
        return "" if parts.scheme in {"http", "https"} and "." in parts.netloc else "is not an address"
    linked = (path.parent / unquote(parts.path)).resolve() if parts.path else path
    if not linked.is_file():
        return "leads to no file"
    anchors = pages[linked].anchors if linked in pages else set()
    return "leads to no anchor" if parts.fragment and unquote(parts.fragment) not in anchors else ""


def main() -> int:
    """Prints the faults of the site whose folder is given; 1 where there are some."""
    site = Path(sys.argv[1]).resolve()
    faults = faults_of(site)
    for fault in faults:
        print(fault, file=sys.stderr)  # noqa: T201 - a script's output
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
