"""Rows that ask for sums, and a backend that answers and counts them: what tests of jobs have in common."""

from __future__ import annotations

import json
from collections import Counter

from llmprog.backends import ScriptedBackend
from llmprog.errors import BackendError
from llmprog.programs.self_consistency import self_consistency


def sum_of(prompt):
    """The right answer to the rows' questions, ``a plus b``."""
    words = prompt.rsplit("Question: ", 1)[1].split()
    return str(int(words[0]) + int(words[2]))


def questions(count):
    return [{"question": f"{n} plus {n + 1}", "sum": 2 * n + 1} for n in range(count)]


def answering(prompt, sample):
    return f"Answer: {sum_of(prompt)}"


def vote(**settings):
    return self_consistency(**{"num_samples": 3, **settings})


class Recorder(ScriptedBackend):
    """Counts what it is asked; ``fails`` may raise for a prompt."""

    def __init__(self, script=answering, fails=lambda prompt: None, **options):
        super().__init__(script, **options)
        self.asked = Counter()
        self.fails = fails

    async def generate(self, request):
        for sample in range(request.num_samples):
            self.asked[request.prompt.text, request.first_sample + sample] += 1
        self.fails(request.prompt.text)
        return await super().generate(request)


async def collected(job):
    return [result async for result in job]


async def until_error(job, kind):
    """The results that a job gives until it ends with an error of this kind, and the error."""
    results = []
    try:
        async for result in job:
            results.append(result)  # noqa: PERF401 - what came before the error is wanted
    except kind as error:
        return results, error
    raise AssertionError(f"the job ended without {kind.__name__}")


def without_recall(results):
    return [json.dumps(result.to_json()) for result in sorted(results, key=lambda result: result.index)]


def one_in_three_fails(prompt):
    if int(prompt.rsplit("Question: ", 1)[1].split()[0]) % 3 == 0:
        raise BackendError("this one is too much", backend="test", status=400)
