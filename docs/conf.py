"""How Sphinx makes the site of these pages: `make docs`.

Sources are the repository's own Markdown files where they lie, read from its root, so that a link that holds in a
checkout holds on the site. Navigation is made from docs/index.md: each of its headings is a group, each of the links
under it a page.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from pygments.lexers.special import TextLexer
from sphinx.domains.python import PyObject

import llmprog

if TYPE_CHECKING:
    from sphinx.application import Sphinx

ROOT = Path(__file__).parent.parent
INDEX = "docs/index"

project = "llmprog"
author = "The llmprog maintainers"
project_copyright = author
version = release = llmprog.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
root_doc = INDEX
include_patterns = [
    *("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"),
    "docs/**.md",
    "weights/MODEL_CARD.md",
]
# Folders without pages are not looked through; a virtual environment has tens of thousands of files.
exclude_patterns = [
    "docs/_build",
    "docs/recordings",
    *(
        f"{folder.name}"
        for folder in ROOT.iterdir()
        if folder.is_dir() and folder.name not in {"docs", "llmprog", "weights"}
    ),
]
nitpicky = True
nitpick_ignore_regex = [
    # Other packages' own documentation is not looked up: building needs no network.
    ("py:.*", r"(abc|asyncio|collections|enum|fractions|os|pathlib|random|threading|typing)\..+"),
    ("py:.*", r"(nx|networkx|pydantic)\..+|Path|Fraction"),
    # Types that stand in signatures and that nobody has to name: parts of the machinery, and aliases of unions.
    ("py:class", r"llmprog\.(accounting|joined|signatures)\..+|Signature"),
    (
        "py:class",
        r"llmprog\.(backends\.accounts|programs\.catalog|progress|search\.calls|serving\.server|viewer\.server)\..+",
    ),
    ("py:class", r"llmprog\.runs\.(amounts|database|journal|ledger_database|ledger_tables|schema)\..+"),
    ("py:class", r"llmprog\.(nodes\.Node|search\.operations\.Generating|search\.chain_controller\.ChainController)"),
    ("py:class", r"(Backend|Budget|Store|Cache|Executor)Choice|llmprog\.program\.ControllerSpec|Event|Questions"),
    ("py:class", r"PolicyNetwork|ProposalVerdict"),
]

myst_heading_anchors = 6
myst_links_external_new_tab = False

autodoc_member_order = "bysource"
autodoc_inherit_docstrings = False  # a method that implements a protocol is documented there
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_default_options = {"members": True}
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True  # attributes are a list, as in the docstring; their types are in the signature

html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["site.css"]
pygments_dark_style = "github-dark"  # Furo's own underlines every name of a module
html_title = f"llmprog {version}"
html_copy_source = False
html_show_sphinx = False
html_additional_pages = {"index": "start.html"}  # the site's address leads to docs/index.html
templates_path = ["_templates"]


def with_navigation(text: str) -> str:
    """The index with a hidden table of contents for each of its groups of links."""
    trees = []
    for section in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        caption, _, body = section.partition("\n")
        links = re.findall(r"\[([^]]+)\]\(([^)#\s]+\.md)\)", body)
        # A page has its own title there; those from outside docs/ have titles made for where they lie.
        pages = dict.fromkeys(f"{words} <{page}>" if page.startswith("../") else page for words, page in links)
        trees.append("\n".join(["", "```{toctree}", ":hidden:", f":caption: {caption.strip()}", "", *pages, "```", ""]))
    return text + "".join(trees)


def on_docstring(_app: Sphinx, what: str, _name: str, _obj: object, _options: object, lines: list[str]) -> None:
    """Puts an empty comment before what a property says: napoleon takes words before a first colon for its type."""
    if what in {"attribute", "data", "property"}:
        lines[:0] = ["..", ""]


def on_skip(_app: Sphinx, _what: str, _name: str, member: object, _skip: bool, _options: object) -> bool | None:
    """Leaves out the fields of named tuples, which the class itself describes."""
    return True if (getattr(member, "__doc__", None) or "").startswith("Alias for field number") else None


def on_source_read(_app: Sphinx, docname: str, content: list[str]) -> None:
    """Adds the navigation to the index, and to blocks that are files their names, as the pages are read."""
    content[0] = re.sub(r"^```(\w+) file=(\S+)$", r"```{code-block} \1\n:caption: \2", content[0], flags=re.MULTILINE)
    if docname == INDEX:
        content[0] = with_navigation(content[0])


def setup(app: Sphinx) -> None:
    """Takes part in the build, as Sphinx calls it."""
    app.add_lexer("jsonl", TextLexer)
    for field in PyObject.doc_field_types:
        if field.name == "variable":
            field.label = "Attributes"  # as in the docstrings
    app.connect("autodoc-skip-member", on_skip)
    app.connect("source-read", on_source_read)
    app.connect("autodoc-process-docstring", on_docstring, priority=400)  # before napoleon
