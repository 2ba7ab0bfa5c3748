"""``llmprog view``: runs in a browser."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from llmprog.cli.app import app
from llmprog.cli.runs import RUN_HELP, StoreOption, find_run, opened


@app.command()
def view(
    run_id: Annotated[
        str | None, typer.Argument(metavar="RUN", help=f"The run to open: {RUN_HELP} (default: the list of runs).")
    ] = None,
    store: StoreOption = None,
    host: Annotated[str, typer.Option(metavar="HOST", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(metavar="N", help="Port to listen on; 0 takes a free one.")] = 0,
    allow_remote: Annotated[
        bool, typer.Option("--allow-remote", help="Let --host be one that other machines reach; takes a token.")
    ] = False,
    token_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Holds the token that one logs in with (or set LLMPROG_VIEW_TOKEN)."),
    ] = None,
    allow_host: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="A further name in the Host header; repeatable.")
    ] = None,
    no_open: Annotated[bool, typer.Option("--no-open", help="Print the address and open no browser.")] = False,
) -> None:
    """Look at runs in a browser. Shows their thoughts, votes and calls, also while they are under way."""
    import asyncio
    from contextlib import closing

    from llmprog.errors import MissingExtraError
    from llmprog.terminal import plain

    try:
        from llmprog.viewer.server import TOKEN_VARIABLE, Viewer, ViewOptions
        from llmprog.web.sockets import listen
        from llmprog.web.tokens import read_token
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("llmprog"):
            raise
        raise MissingExtraError("llmprog view", error.name or "starlette", "viewer") from error

    token = read_token(token_file, TOKEN_VARIABLE)
    with closing(opened(store)) as kept:
        if run_id is not None:
            with find_run(kept, run_id) as run:
                run_id = run.id
        options = ViewOptions(
            host=host,
            port=port,
            allow_remote=allow_remote,
            token=token,
            allow_hosts=tuple(allow_host or ()),
            run=run_id,
        )
        with closing(listen(host, port)) as listening:
            viewer = Viewer(kept, options, listening)
            how = "works once; Ctrl-C ends it" if token is None else "add the token; Ctrl-C ends it"
            sys.stdout.write(f"llmprog: {plain(str(kept))} is shown at {viewer.url} ({how})\n")
            sys.stdout.flush()
            if not no_open and token is None and _has_display():
                _open(viewer.url)
            asyncio.run(viewer.serve())


def _has_display() -> bool:
    """Whether there is a screen that a browser can be opened on."""
    if sys.platform in ("win32", "darwin"):
        return True
    return any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"))


def _open(url: str) -> None:
    """Open a browser, from a thread: some return only when they are closed."""
    import threading
    import webbrowser

    threading.Thread(target=webbrowser.open, args=(url,), daemon=True).start()
