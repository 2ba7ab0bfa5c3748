"""``llmprog serve``: backends and programs behind OpenAI's protocol."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llmprog.cli.app import DEFAULT_BACKEND, TrustOption, app

if TYPE_CHECKING:
    from collections.abc import Mapping

    from llmprog.backends.base import Backend


@app.command()
def serve(
    backend: Annotated[
        list[str] | None,
        typer.Option(metavar="[NAME=]ID", help=f"A backend to serve; repeatable (default: {DEFAULT_BACKEND})."),
    ] = None,
    program: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[NAME=]PROGRAM[?KEY=VALUE&...]",
            help="A program to serve as program:NAME; repeatable (default: all of `llmprog list`).",
        ),
    ] = None,
    trust: TrustOption = None,
    host: Annotated[
        str, typer.Option(metavar="HOST", help="Address to listen on; any but this machine's own needs a token.")
    ] = ("127.0.0.1"),
    port: Annotated[int, typer.Option(metavar="N", help="Port to listen on; 0 takes a free one.")] = 8000,
    token_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Holds the token that requests must bring (or set LLMPROG_SERVE_TOKEN)."),
    ] = None,
    allow_host: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="A further name in the Host header; repeatable.")
    ] = None,
    allow_origin: Annotated[
        list[str] | None,
        typer.Option(metavar="ORIGIN", help="A page that may call from a browser, https://HOST; repeatable."),
    ] = None,
    max_concurrency: Annotated[
        int, typer.Option(metavar="N", help="Most calls in flight; those beyond are told to wait.")
    ] = 256,
    budget: Annotated[
        str | None,
        typer.Option(metavar="LIMITS", help="The most to spend while it runs: calls=200,tokens=1e6,usd=2,seconds=1h."),
    ] = None,
    store: Annotated[
        str | None, typer.Option(metavar="DIR", help="Keep the runs of programs here (default: none is kept).")
    ] = None,
    grace: Annotated[float, typer.Option(metavar="SECONDS", help="How long calls have to end at Ctrl-C.")] = 10.0,
) -> None:
    """Serve backends and programs over HTTP. For clients of OpenAI's protocol; a program is a model to them."""
    import asyncio
    from contextlib import ExitStack, closing

    from llmprog.errors import MissingExtraError, OptionError
    from llmprog.runs.budget import Budget
    from llmprog.runs.store import open_store

    try:
        from llmprog.serving.catalog import backends_of, programs_of
        from llmprog.serving.server import TOKEN_VARIABLE, ServerOptions
        from llmprog.serving.server import serve as run_server
        from llmprog.web.sockets import listen
        from llmprog.web.tokens import read_token
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("llmprog"):
            raise
        raise MissingExtraError("llmprog serve", error.name or "starlette", "serve") from error

    options = ServerOptions(
        host=host,
        port=port,
        token=read_token(token_file, TOKEN_VARIABLE),
        allow_hosts=tuple(allow_host or ()),
        allow_origins=tuple(allow_origin or ()),
        max_concurrency=max_concurrency,
        grace_s=grace,
        budget=None if budget is None else Budget.parse(budget),
    )
    if trust and not program:
        raise OptionError("--trust has no effect without --program; name the program files that it is for")
    programs = programs_of(program, tuple(trust or ())) if program else None
    with ExitStack() as stack:
        listening = stack.enter_context(closing(listen(host, port)))
        kept = None if store is None else stack.enter_context(closing(open_store(store)))
        backends = backends_of(backend or [DEFAULT_BACKEND])
        _announce(backends, f"{host}:{listening.getsockname()[1]}", has_budget=budget is not None)
        asyncio.run(run_server(backends, programs, options, listening=listening, store=kept))


def _announce(backends: Mapping[str, Backend], address: str, *, has_budget: bool) -> None:
    """Say on stderr what is served where, and what may cost money."""
    from llmprog.serving.catalog import may_cost
    from llmprog.terminal import plain

    say = sys.stderr.write
    say(f"llmprog: serving {plain(', '.join(backends))} and programs at http://{address}/v1 (Ctrl-C ends it)\n")
    costly = [name for name, backend in backends.items() if may_cost(backend)]
    if costly and not has_budget:
        say(f"llmprog: whoever calls {plain(', '.join(costly))} spends your money; --budget usd=… sets a limit\n")
    sys.stderr.flush()
