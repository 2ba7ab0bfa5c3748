"""A run that never ends: ``worker.py STORE`` says ``waits`` once its model answers no more; then it may be killed."""

from __future__ import annotations

import asyncio
import os
import sys

from llmprog import run
from llmprog.backends import ScriptedBackend
from llmprog.programs import arithmetic


class Silent(ScriptedBackend):
    """Answers two calls and no more."""

    async def generate(self, request):
        if len(self.requests) < 2:
            return await super().generate(request)
        await asyncio.sleep(0.5)  # what has been answered is on disk
        os.write(1, b"waits\n")
        return await asyncio.Event().wait()


if __name__ == "__main__":
    model = Silent(lambda prompt, sample: "Answer: 42")
    run(arithmetic(num_samples=5), "17 + 25", backend=model, seed=1, store=sys.argv[1], max_in_flight=1)
