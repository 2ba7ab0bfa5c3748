"""Make the pictures of the viewer anew: ``python docs/screenshots.py [NAME ...]``, or ``make docs-screenshots``.

Everything in them is real: programs are run into a store of their own, on the embedded model and on an endpoint on
loopback that refuses some requests; a viewer is opened on that store, and Chromium looks at it. Written are
``docs/images/viewer-NAME.png``.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from llmprog import open_store
from llmprog.runs.store import RunStore
from llmprog.viewer.background import viewing
from llmprog.viewer.feed import RunFeed

ROOT = Path(__file__).parent.parent
IMAGES = ROOT / "docs/images"
SIZE = {"width": 1280, "height": 800}
SETTLED_MS = 1000  # for what is drawn frame by frame
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync", "--no-first-run"]
QUESTION = "(47 - 15) * 5 - 63 + 21"
GAME = ("game24", "4 9 10 13", "--seed", "2")
DIFFUSION = "local:puzzles?decoder=masked_diffusion"


@dataclass(frozen=True, kw_only=True)
class Picture:
    """What is shown.

    Attributes:
        address: What follows # in the address; ``{names}`` are ids of runs, ``{thought}`` one on the way to a solution.
        wait_for: What has to be there, by its test id.
        fill: A field, by its test id, and what is put into it.
    """

    address: str
    wait_for: str
    fill: tuple[str, str] | None = None


PICTURES = {
    "runs": Picture(address="/", wait_for="run-row"),
    "graph": Picture(address="/run/{search}?tab=graph", wait_for="graph-canvas"),
    "thought": Picture(address="/run/{search}?tab=graph&thought={thought}", wait_for="thought-verdicts"),
    "votes": Picture(address="/run/{vote}?tab=votes", wait_for="stage"),
    "timeline": Picture(address="/run/{endpoint}?tab=timeline", wait_for="stage"),
    "denoising": Picture(
        address="/run/{diffusion}?tab=playback", wait_for="canvas-token", fill=("playback-scrubber", "5")
    ),
    "compare": Picture(address="/compare/{search}/{hybrid}", wait_for="compare-facts"),
}


def make_runs(store: str) -> dict[str, str]:
    """Ids of the runs that are shown, by name, and of a thought of one."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    from loopback import start_server  # a module of the benchmarks, beside them

    opened = open_store(store)
    made: dict[str, str] = {}

    def run(name: str, *arguments: str) -> None:
        command = [str(Path(sys.executable).with_name("llmprog")), "run", *arguments, "--store", store]
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own command
        if done.returncode not in (0, 3):  # solved, or not
            sys.exit(f"{' '.join(command)}: exit code {done.returncode}\n{done.stderr}")
        made[name] = opened.list()[0].id

    run("plain", *GAME, "--set", "method=best_of_n")
    run("hybrid", *GAME, "--set", "decoder=hybrid")
    run("vote", "arithmetic", QUESTION, "--seed", "1", "--set", "num_samples=60")
    with start_server(latency_ms=400, sigma=0.5, faults="429=9,500=4", answer="faulty_server:steady_answer") as server:
        debate = ("debate", "Which of the seven?", "--set", "num_debaters=8", "--set", "num_rounds=4", "--seed", "1")
        run("endpoint", *debate, "--backend", f"{server.url}#demo")
    run(
        "diffusion", "arithmetic", QUESTION, "--seed", "1", "--backend", DIFFUSION, "--set", "num_samples=4", "--stream"
    )
    run("search", *GAME)
    return made | {"thought": str(before_the_goal(opened, made["search"]))}


def before_the_goal(store: RunStore, run_id: str) -> int:
    """The thought that a run's solution was made from."""
    with store.open(run_id) as run:
        batches = list(RunFeed(run).read())
    parents = {made["id"]: made["parents"] for batch in batches for made in batch.get("thoughts", ())}
    (found,) = [ended["thought"] for batch in batches for ended in batch.get("finished", ())]
    return int(parents[found][0])


def take(page: Page, picture: Picture, address: str, ids: dict[str, str], path: Path) -> None:
    """Write the picture as a PNG."""
    page.goto(f"{address}#{picture.address.format(**ids)}")
    page.get_by_test_id(picture.wait_for).first.wait_for()
    if picture.fill is not None:
        field, value = picture.fill
        page.get_by_test_id(field).fill(value)
    page.wait_for_timeout(SETTLED_MS)
    page.screenshot(path=path)


def main() -> None:
    """Take the pictures that are named, or all."""
    names = sys.argv[1:] or list(PICTURES)
    if unknown := set(names) - set(PICTURES):
        sys.exit(f"no such pictures: {', '.join(sorted(unknown))}; there are: {', '.join(PICTURES)}")
    browser_path = shutil.which("chromium") or shutil.which("google-chrome")
    if browser_path is None:
        sys.exit("no Chromium on this machine; on Debian: apt-get install chromium")
    # From inside it: the list of runs names the folder they are in, and a path of this machine would say nothing.
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        store = "runs"
        ids = make_runs(store)
        with viewing(open_store(store)) as address, sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=browser_path, args=FLAGS)
            page = browser.new_page(viewport=SIZE, color_scheme="light")
            page.goto(address)  # logs in, and is sent on to the page itself
            for name in names:
                path = IMAGES / f"viewer-{name}.png"
                take(page, PICTURES[name], page.url.partition("#")[0], ids, path)
                print(f"{path.relative_to(ROOT)}: {path.stat().st_size // 1024} KiB")  # noqa: T201 - a script's output
            browser.close()


if __name__ == "__main__":
    main()
