"""A viewer in a thread of this process: for notebooks, and for tests of what it shows."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager

from llmprog.runs.store import RunStore
from llmprog.viewer.server import Viewer, ViewOptions
from llmprog.web.orderly import OrderlyServer
from llmprog.web.sockets import listen

_FREE_PORT = ViewOptions()


@contextmanager
def viewing(store: RunStore, options: ViewOptions = _FREE_PORT) -> Iterator[str]:
    """The address at which one logs in to a viewer that runs while the block does.

    Args:
        store: The runs; whoever opened it closes it.
        options: How it is run; by default on a free port of this machine.

    Raises:
        OptionError: It cannot listen there.
    """
    with closing(listen(options.host, options.port)) as listening:
        viewer = Viewer(store, options, listening)
        running: list[OrderlyServer] = []
        begun = threading.Event()
        failures: list[BaseException] = []

        def begin(server: OrderlyServer) -> None:
            running.append(server)
            begun.set()

        def run() -> None:
            try:
                asyncio.run(viewer.serve(begin))
            except BaseException as error:  # noqa: BLE001 - raised in the thread that began it
                failures.append(error)
            finally:
                begun.set()

        thread = threading.Thread(target=run, name="llmprog-view", daemon=True)
        thread.start()
        try:
            begun.wait()  # the socket listens already: who connects now is answered once the server is up
            if failures:
                raise failures[0]
            yield viewer.url
        finally:
            for server in running:
                server.should_exit = True
            thread.join()
