"""The rules that the page's own code keeps: no text becomes HTML, nothing comes from elsewhere, files stay small."""

from __future__ import annotations

import re
from importlib import resources

import pytest

PAGE = resources.files("llmprog.viewer") / "page"
FILES = {file.name: file.read_text(encoding="utf-8") for file in PAGE.iterdir()}
MODULES = sorted(name for name in FILES if name.endswith(".js"))

FORBIDDEN = {
    "text as HTML": r"(?:inner|outer|Adjacent|set)HTML|document\.write|ContextualFragment|DOMParser|srcdoc",
    "text as code": r"\beval\(|new Function|javascript:|set(?:Timeout|Interval)\(\s*[\"'`]",
    "style as an attribute": r"setAttribute\(\s*[\"'`]style|[\"'`]style[\"'`]\s*:|\bstyle:\s|cssText",
    "a handler as an attribute": r"setAttribute\(\s*[\"'`]on|\.on\w+\s*=\s*[\"'`]",
    "another place": r"https?://(?!www\.w3\.org/2000/svg)|\bimport\(|importScripts|XMLHttpRequest|WebSocket|sendBeacon",
    "a store in the browser": r"localStorage|sessionStorage|indexedDB|document\.cookie",
}


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize("what", FORBIDDEN)
def test_no_module_uses(name, what):
    found = re.search(FORBIDDEN[what], FILES[name])
    assert found is None, f"{name}: {found and found[0]}"


def test_the_page_has_no_handlers_and_no_styles_of_its_own():
    assert re.search(r"\son\w+\s*=|\sstyle\s*=|<style|https?://", FILES["index.html"]) is None
    assert re.findall(r"<script[^>]*>", FILES["index.html"]) == ['<script src="page.js" defer>']


@pytest.mark.parametrize("name", sorted(name for name in FILES if name.startswith("style")))
def test_styles_fetch_nothing(name):
    assert re.search(r"@import|url\(|expression\(", FILES[name]) is None


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_file_reads_in_one_sitting(name):
    assert len(FILES[name].splitlines()) <= 500


@pytest.mark.parametrize("name", MODULES)
def test_what_is_imported_is_used_and_what_is_exported_is_described(name):
    text = FILES[name]
    for names in re.findall(r"^import \{([^}]+)\}", text, re.MULTILINE):
        for imported in re.split(r"\s*,\s*", names.strip()):
            assert len(re.findall(rf"\b{re.escape(imported)}\b", text)) > 1, f"{name}: {imported} is not used"
    for found in re.finditer(r"^export (?:async )?(?:function|class) (\w+)", text, re.MULTILINE):
        assert text[: found.start()].rstrip().endswith("*/"), f"{name}: {found[1]} is not described"


def test_every_colour_has_a_value_in_both_schemes():
    style = FILES["style.css"]
    light, dark = style.split("@media (prefers-color-scheme: dark)", 1)
    named = set(re.findall(r"(--[\w-]+):\s*#", light))
    assert named == set(re.findall(r"(--[\w-]+):\s*#", dark.split("\n}\n", 1)[0]))
    used = {name for text in FILES.values() for name in re.findall(r"var\((--[\w-]+)\)", text)}
    known = {name for text in FILES.values() for name in re.findall(r"(--[\w-]+):", text)}
    assert used <= known | {"--doubt"}


def test_colours_are_written_in_one_place():
    for name, text in FILES.items():
        if name != "style.css" and name.startswith("style"):
            assert re.search(r":\s*#[0-9a-f]{3,8}\b", text) is None, name
