"""The page's modules, joined into one script: what is tested in a browser is what is shipped."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from llmprog.viewer import bundle

PAGE = Path(bundle.__file__).with_name("page")
MODULES = {
    "main.js": """import { twice } from "./sums.js";
import { name } from "./names.js";
export const shown = name + twice(2);
""",
    "sums.js": """import { two } from "./names.js";
// How much.
export function twice(x) {
  return two * x;
}
""",
    "names.js": """const own = "n";
export const name = own;
export const two = 2;
export class Thing {}
export async function later() {}
""",
}


def test_modules_run_in_the_order_of_their_imports_and_keep_their_names_to_themselves(page):
    assert page.evaluate(bundle.join("main.js", MODULES.__getitem__)) == {"shown": "n4"}
    found = page.evaluate(f"() => Object.keys({bundle.join('names.js', MODULES.__getitem__)})")
    assert found == ["name", "two", "Thing", "later"]
    assert page.evaluate("typeof twice + typeof own") == "undefinedundefined"


def test_what_is_joined_is_strict(page):
    sloppy = {"main.js": "undeclared = 1;\n"}
    with pytest.raises(Exception, match="undeclared is not defined"):
        page.evaluate(bundle.join("main.js", sloppy.__getitem__))


@pytest.mark.parametrize(
    "line",
    [
        "export default 7;",
        "export { a };",
        "export let a = 1;",
        'import * as all from "./names.js";',
        'import { name as other } from "./names.js";',
        'import "./names.js";',
        'const late = import("./names.js");',
        'import { a } from "https://evil.example/a.js";',
        "  export const a = 1;",
    ],
)
def test_what_cannot_be_joined_is_refused(line):
    modules = {**MODULES, "main.js": f"{line}\n"}
    with pytest.raises(ValueError, match=r"page module main\.js"):
        bundle.join("main.js", modules.__getitem__)


def test_modules_that_import_each_other_are_refused():
    modules = {
        "a.js": 'import { b } from "./b.js";\nexport const a = 1;\n',
        "b.js": 'import { a } from "./a.js";\nexport const b = 1;\n',
    }
    with pytest.raises(ValueError, match=r"a\.js -> b\.js -> a\.js"):
        bundle.join("a.js", modules.__getitem__)


@pytest.mark.parametrize("text", ["</script>", "</SCRIPT ", "<!--", "</style>"])
def test_what_would_end_the_block_that_it_stands_in_is_refused(text):
    with pytest.raises(ValueError, match="would end the block"):
        bundle.join("main.js", {"main.js": f'const text = "{text}";\n'}.__getitem__)


def test_every_module_of_the_page_is_part_of_the_script():
    joined = set(re.findall(r"^const of_(\w+) = \(\(\) =>", bundle.script(), re.MULTILINE))
    assert joined == {path.stem for path in PAGE.glob("*.js")}


def test_the_page_is_of_the_files_that_are_served():
    assert {path.suffix for path in PAGE.iterdir()} == {".html", ".css", ".js"}
    assert bundle.style().startswith((PAGE / "style.css").read_text())  # its colours are for the others
    assert all(path.read_text().strip() in bundle.style() for path in PAGE.glob("*.css"))
    names = re.findall(r'(?:src|href)="([^"#]*)"', bundle.html())
    assert sorted(names) == ["data:,", "page.js", "style.css"]
