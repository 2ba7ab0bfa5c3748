"""The site of the pages: it is built without a warning, and every link on it leads somewhere."""

from __future__ import annotations

import inspect
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

ROOT = Path(__file__).parent.parent
pytest.importorskip("sphinx", reason='the site is built with pip install "llmprog[docs]"')
pytestmark = [
    pytest.mark.timeout(300),  # building takes 20 s on an idle core
    pytest.mark.skipif(
        not (ROOT / "llmprog").is_dir(), reason="the sources are out of reach: the site is made of a checkout"
    ),
]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder that `make docs` would write, built once, also where tests run in several processes."""
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    with FileLock(shared / "site.lock"):
        if not (shared / "site").is_dir():
            build(shared / "doctrees", shared / "site")
    return shared / "site"


def build(doctrees, target):
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-c", "docs", "-d", str(doctrees)]
    built = subprocess.run(
        [*command, ".", str(target)],
        cwd=ROOT,
        env={**os.environ, "PYTHONWARNINGS": "default"},
        capture_output=True,
        text=True,
        check=False,
    )
    if built.returncode != 0:
        shutil.rmtree(target, ignore_errors=True)  # so that no other process takes it for a site
    assert built.returncode == 0, built.stderr


def check_links(folder):
    return subprocess.run(
        [sys.executable, "docs/check_links.py", str(folder)], cwd=ROOT, capture_output=True, text=True, check=False
    )


def test_every_link_of_the_site_leads_somewhere(site):
    checked = check_links(site)
    assert (checked.returncode, checked.stderr) == (0, "")


def test_every_page_is_on_the_site_and_in_its_navigation(site):
    index = (site / "docs/index.html").read_text()
    pages = [path for path in ROOT.glob("docs/**/*.md") if "_build" not in path.parts]
    for page in pages:
        name = page.relative_to(ROOT / "docs").with_suffix(".html").as_posix()
        assert (site / "docs" / name).is_file()
        assert name == "index.html" or re.search(rf'class="reference internal" href="{re.escape(name)}"', index), name


def test_the_reference_has_every_public_name(site):
    import llmprog
    import llmprog.backends
    import llmprog.combinators
    import llmprog.search
    import llmprog.testing

    documented = {
        name for page in (site / "docs/api").glob("*.html") for name in re.findall(r'id="([^"]+)"', page.read_text())
    }
    for module in (llmprog, llmprog.backends, llmprog.combinators, llmprog.search, llmprog.testing):
        for name in module.__all__:
            if inspect.isroutine(made := getattr(module, name)) or inspect.isclass(made):
                assert {f"{module.__name__}.{name}", f"llmprog.{name}", f"llmprog.types.{name}"} & documented, name


def test_the_address_of_the_site_leads_to_its_index(site):
    assert "url=docs/index.html" in (site / "index.html").read_text()


def test_nothing_on_the_site_is_loaded_from_elsewhere(site):
    for page in site.rglob("*.html"):
        assert not re.search(
            r'<(?:script|img|link rel="stylesheet")[^>]*(?:src|href)="(?:https?:)?//', page.read_text()
        ), page


@pytest.mark.parametrize(
    ("link", "fault"),
    [
        ('<a href="gone.html">x</a>', "leads to no file"),
        ('<a href="page.html#gone">x</a>', "leads to no anchor"),
        ('<a href="#gone">x</a>', "leads to no anchor"),
        ('<a href="http:///nowhere">x</a>', "is not an address"),
        ('<a href="javascript:alert(1)">x</a>', "is not an address"),
        ('<img src="https://other.example/x.png">', "is loaded from elsewhere"),
    ],
)
def test_a_link_that_leads_nowhere_is_found(tmp_path, link, fault):
    (tmp_path / "page.html").write_text(
        f'<p id="here">{link} <a href="#here">y</a> <a href="https://example.org/">z</a></p>'
    )
    checked = check_links(tmp_path)
    assert checked.returncode == 1
    assert len(checked.stderr.splitlines()) == 1
    assert checked.stderr.strip().endswith(fault)
