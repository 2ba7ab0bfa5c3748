"""A loopback endpoint that fails one request in a hundred, each in its own way, and writes down what it was asked.

    python benchmarks/faulty_server.py LOG [--latency-ms 40] [--faults 1.0] [--seed 0]

It is the one of ``loopback.py`` with two differences. Answers are a function of prompt and seed alone, so that whoever
asks twice is told the same. And every request is a line of LOG the moment it is read, ``R PROMPT SEED``, and another
when it has been answered in full, ``A PROMPT SEED``, where PROMPT is the last line of the prompt.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

from loopback import Behaviour, Connection, PunctualSelector

SLOW_S = 1.0
KINDS = {"500": 0.25, "429": 0.25, "truncate": 0.2, "tear": 0.1, "slow": 0.2}  # shares; they add up to 1


def steady_answer(request: dict[str, Any], sample_index: int) -> str:
    """A chain of thought whose answer depends on prompt and seed only; three of five agree."""
    key = f"{request['messages'][-1]['content']}|{request.get('seed')}|{sample_index}"
    digest = hashlib.sha256(key.encode()).digest()
    answer = 7 if digest[0] < 154 else digest[1] % 5
    steps = "\n".join(f"Step {step}: {digest.hex()[step * 8 : step * 8 + 8]} is what follows." for step in range(6))
    return f"{steps}\nAnswer: {answer}"


class LoggingConnection(Connection):
    """Writes down requests and complete answers; knows two more faults."""

    log: Any = None
    name = ""
    is_slow = False

    def answer(self, path: str, body: bytes) -> None:
        """Write the request down, then plan its answer."""
        if path.endswith("/completions"):
            request = json.loads(body)
            self.name = f"{str(request['messages'][-1]['content']).splitlines()[-1]}\t{request.get('seed')}"
            self.log.write(f"R\t{self.name}\n")
            self.log.flush()
        super().answer(path, body)

    def make(self) -> None:
        """Make an answer that is slow, or torn by a reset in its middle, or whatever else was planned."""
        fault = self.fault
        if fault in ("slow", "tear"):
            self.is_slow, self.fault = fault == "slow", None
        super().make()
        if fault == "tear":
            made = self.made
            self.made = lambda: self.tear(made)  # make has set it

    def reply(self) -> None:
        """Answer, a slow one later."""
        if self.made is None:
            self.behaviour.unmade.remove(self)
            self.make()
        if self.is_slow:
            self.is_slow = False
            self.pending = self.loop.call_later(SLOW_S, self.reply)
            return
        super().reply()

    def tear(self, made: Any) -> None:
        """Send half of an answer, then reset the connection."""
        self.settle()
        body = made.args[1]
        self.send(200, body, cut=len(body) // 2)
        self.transport.abort()

    def finish(self, status: int, body: bytes, *, cut: int = 0, headers: bytes = b"") -> None:
        """Write a plain answer, and that it was one."""
        super().finish(status, body, cut=cut, headers=headers)
        if status == 200 and not cut:
            self.log.write(f"A\t{self.name}\n")
            self.log.flush()


async def serve(behaviour: Behaviour, log: Path) -> None:
    """Serve until standard input ends, which it does when the parent process does."""
    loop = asyncio.get_running_loop()
    LoggingConnection.log = log.open("a", encoding="utf-8")
    server = await loop.create_server(lambda: LoggingConnection(behaviour, loop), "127.0.0.1", 0, backlog=4096)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1", flush=True)
    await loop.run_in_executor(None, sys.stdin.read)
    server.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("log", type=Path, nargs="?", default=Path("/dev/null"), metavar="LOG")
    parser.add_argument("--latency-ms", type=float, default=40.0)
    parser.add_argument("--faults", type=float, default=1.0, help="per cent of requests that fail, of all kinds")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    faults = {kind: share * given.faults for kind, share in KINDS.items()} if given.faults else {}
    behaviour = Behaviour(latency_ms=given.latency_ms, sigma=0.4, faults=faults, answer=steady_answer, seed=given.seed)
    loop = asyncio.SelectorEventLoop(PunctualSelector())
    loop.run_until_complete(serve(behaviour, given.log))


if __name__ == "__main__":
    main()
