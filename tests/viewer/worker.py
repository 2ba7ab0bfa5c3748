"""A run that never ends: ``worker.py STORE`` says ``waits`` once its model answers no more; then it may be killed."""

from __future__ import annotations

import asyncio
import os
import sys
import time

from llmprog import run
from llmprog.backends import ScriptedBackend
from llmprog.programs import arithmetic
from llmprog.runs.store import DirectoryStore


class Silent(ScriptedBackend):
    """Answers two calls and no more."""

    async def generate(self, request):
        if len(self.requests) < 2:
            return await super().generate(request)
        await asyncio.to_thread(wait_for_answers, sys.argv[1])
        os.write(1, b"waits\n")
        return await asyncio.Event().wait()


def wait_for_answers(directory):
    """Until the two answers are on disk."""
    store = DirectoryStore(directory)
    with store.open(store.list()[0].id) as kept:
        while sum(call.state == "settled" for call in kept.calls()) < 2:
            time.sleep(0.01)


if __name__ == "__main__":
    model = Silent(lambda prompt, sample: "Answer: 42")
    run(arithmetic(num_samples=5), "17 + 25", backend=model, seed=1, store=sys.argv[1], max_in_flight=1)
