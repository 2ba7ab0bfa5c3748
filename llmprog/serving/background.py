"""A server in a thread of this process: for notebooks, and for tests of what talks to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager

from llmprog.backends.base import Backend
from llmprog.program import Program
from llmprog.runs.store import RunStore
from llmprog.serving.catalog import backends_of
from llmprog.serving.server import ServerOptions, serve
from llmprog.web.in_thread import in_thread
from llmprog.web.orderly import OrderlyServer
from llmprog.web.sockets import in_url, listen

_FREE_PORT = ServerOptions(port=0)


@contextmanager
def serving(
    backends: Sequence[str] | dict[str, Backend],
    programs: dict[str, Program] | None = None,
    *,
    options: ServerOptions = _FREE_PORT,
    store: RunStore | None = None,
) -> Iterator[str]:
    """The base URL of a server that runs while the block does, such as ``http://127.0.0.1:40123/v1``.

    Args:
        backends: Ids, as ``llmprog serve --backend`` takes them; or open backends by name, which are closed at the end.
        programs: By the names they are served under; ``None`` serves all of ``llmprog list``.
        options: How it is run; by default on a free port of this machine.
        store: Where runs of programs are kept; ``None`` keeps none.

    Raises:
        OptionError: An option or id is not allowed.
        BackendError: A backend cannot be opened.
    """
    opened = backends if isinstance(backends, dict) else backends_of(backends)
    with closing(listen(options.host, options.port)) as listening:
        host, port = listening.getsockname()[:2]

        async def run(begin: Callable[[OrderlyServer], None]) -> None:
            await serve(
                opened,
                programs,
                options,
                listening=listening,
                store=store,
                on_server=lambda server, _: begin(server),
            )

        with in_thread("llmprog-serve", run):
            yield f"http://{in_url(host)}:{port}/v1"
