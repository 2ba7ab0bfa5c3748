"""Sdists and wheels: complete, nothing else in them, the same bytes whenever and from wherever they are built."""

from __future__ import annotations

import email
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import llmprog

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
NAME = f"llmprog-{llmprog.__version__}"
DIST_INFO = f"{NAME}.dist-info"
LARGEST_WHEEL = 1_500_000  # bytes

pytestmark = pytest.mark.skipif(
    not (ROOT / "llmprog").is_dir(), reason="the sources are out of reach: an installed wheel is tested"
)


def build(target, source, folder):
    """The path of one distribution, built as a release is."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", str(folder)]
    environment = {**os.environ, "SOURCE_DATE_EPOCH": "1700000000"}
    done = subprocess.run(command, cwd=source, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (path,) = folder.iterdir()
    return path


def unpack(archive, folder):
    """Unpack an archive of our own; Pythons before 3.11.4 know no filter, later ones ask for one."""
    shutil.unpack_archive(archive, folder, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))


@pytest.fixture(scope="module")
def sdist(tmp_path_factory):
    return build("sdist", ROOT, tmp_path_factory.mktemp("sdist"))


@pytest.fixture(scope="module")
def unpacked_sdist(sdist, tmp_path_factory):
    folder = tmp_path_factory.mktemp("unpacked")
    unpack(sdist, folder)
    return folder / NAME


@pytest.fixture(scope="module")
def wheel(unpacked_sdist, tmp_path_factory):
    """Built from the sdist, which therefore has all that it takes."""
    return build("wheel", unpacked_sdist, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def unpacked_wheel(wheel, tmp_path_factory):
    folder = tmp_path_factory.mktemp("unpacked")
    shutil.unpack_archive(wheel, folder, "zip")
    return folder


@pytest.fixture(scope="module")
def metadata(unpacked_wheel):
    return email.message_from_string((unpacked_wheel / DIST_INFO / "METADATA").read_text())


def files_of_package(root):
    found = {path.relative_to(root) for path in (root / "llmprog").rglob("*") if path.is_file()}
    return {path for path in found if path.suffix != ".pyc"}


def test_both_hold_every_file_of_the_package(unpacked_wheel, unpacked_sdist):
    expected = files_of_package(ROOT)
    assert files_of_package(unpacked_wheel) == files_of_package(unpacked_sdist) == expected
    assert "py.typed" in {path.name for path in expected}


def test_the_page_of_the_viewer_is_in_the_wheel(unpacked_wheel):
    page = {path.name for path in (unpacked_wheel / "llmprog" / "viewer" / "page").iterdir()}
    assert {"index.html", "style.css", "main.js"} <= page


def test_the_wheel_holds_nothing_but_the_package_and_its_papers(wheel, unpacked_wheel):
    assert {path.name for path in unpacked_wheel.iterdir()} == {"llmprog", DIST_INFO}
    assert (unpacked_wheel / DIST_INFO / "licenses" / "LICENSE").is_file()
    assert wheel.stat().st_size < LARGEST_WHEEL


def test_the_sdist_holds_what_is_listed_and_no_leftovers(unpacked_sdist):
    listed = set(PROJECT["tool"]["hatch"]["build"]["targets"]["sdist"]["only-include"])
    added = {".gitignore", "PKG-INFO", "pyproject.toml"}
    assert {path.name for path in unpacked_sdist.iterdir()} == listed | added
    leftovers = {"__pycache__", "_build", ".ipynb_checkpoints"}
    assert [path for path in unpacked_sdist.rglob("*") if path.name in leftovers or path.suffix == ".pyc"] == []


def test_the_same_sources_give_the_same_bytes(sdist, wheel, unpacked_sdist, tmp_path):
    assert build("sdist", unpacked_sdist, tmp_path / "sdist").read_bytes() == sdist.read_bytes()
    assert build("wheel", unpacked_sdist, tmp_path / "wheel").read_bytes() == wheel.read_bytes()


def test_the_wheel_imports_without_any_other_package(unpacked_wheel, tmp_path):
    code = (
        f"import sys; sys.path.insert(0, {str(unpacked_wheel)!r}); import llmprog;"
        "print(llmprog.__file__, llmprog.__version__)"
    )
    command = [sys.executable, "-I", "-S", "-c", code]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout.split() == [str(unpacked_wheel / "llmprog" / "__init__.py"), llmprog.__version__], done.stderr


def test_the_metadata_name_the_pythons_and_every_extra(metadata):
    assert metadata["Name"] == "llmprog"
    assert metadata["Requires-Python"] == PROJECT["project"]["requires-python"]
    versions = [line.rpartition(" ")[2] for line in metadata.get_all("Classifier") if "Python :: 3." in line]
    assert versions[0] == metadata["Requires-Python"].removeprefix(">=")
    assert set(metadata.get_all("Provides-Extra")) == set(PROJECT["project"]["optional-dependencies"])


def test_the_page_on_an_index_leads_nowhere_that_is_not_there(metadata):
    """A README's links to files beside it are dead on a package index, and so are its pictures."""
    page = metadata.get_payload()
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert page.startswith("# llmprog")
    outside_code = re.sub(r"^```.*?^```$|`[^`\n]*`", "", page, flags=re.MULTILINE | re.DOTALL)
    targets = re.findall(r"\]\(([^)]*)\)", outside_code)
    assert [target for target in targets if not target.startswith("https://")] == []
    assert "<img" not in outside_code


def test_the_weights_are_a_package_of_their_own(tmp_path, unpacked_wheel, metadata):
    unpacked = tmp_path / "unpacked"
    sdist = build("sdist", ROOT / "weights", tmp_path / "sdist")
    unpack(sdist, unpacked)
    source = unpacked / sdist.name.removesuffix(".tar.gz")
    wheel = build("wheel", source, tmp_path / "wheel")
    assert build("wheel", ROOT / "weights", tmp_path / "again").read_bytes() == wheel.read_bytes()
    shutil.unpack_archive(wheel, unpacked, "zip")
    packed = {path.name for path in (unpacked / "llmprog_puzzles").iterdir()}
    assert packed == {"__init__.py", "py.typed", "puzzles.safetensors", "puzzles_diffusion.safetensors"}
    assert list(unpacked_wheel.rglob("*.safetensors")) == []
    (dist_info,) = unpacked.glob("*.dist-info")
    assert (dist_info / "licenses" / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()
    own = email.message_from_string((dist_info / "METADATA").read_text())
    assert own.get_payload().startswith("# Model card")
    (required,) = [line for line in metadata.get_all("Requires-Dist") if line.startswith("llmprog-puzzles")]
    assert Requirement(required).specifier.contains(own["Version"])
    assert "local" in required
