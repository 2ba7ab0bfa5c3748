"""Runs of every store are shown by a viewer, which asks from several threads."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import httpx

from llmprog import run
from llmprog.backends import ScriptedBackend
from llmprog.programs import arithmetic
from llmprog.viewer.background import viewing


def test_every_store_is_shown_to_several_who_look_at_once(store):
    model = ScriptedBackend(lambda prompt, sample: f"Answer: {sample % 2}")
    ids = [run(arithmetic(num_samples=9), "1", backend=model, seed=i, store=store).run_id for i in range(3)]
    with viewing(store) as url, httpx.Client(base_url=url.partition("/login")[0], timeout=60) as client:
        assert client.get(url).status_code == 303
        paths = [f"/api/runs/{run_id}/{what}" for run_id in ids for what in ("feed", "calls/2")] * 4
        with ThreadPoolExecutor(8) as threads:
            answers = list(threads.map(client.get, ["/api/runs", *paths]))
        assert [answer.status_code for answer in answers] == [200] * 25
        assert {row["id"] for row in answers[0].json()["runs"]} == set(ids)
        assert all(answer.text.endswith('data: {"end":true}\n\n') for answer in answers[1::2])
        store.delete(ids[0])
        assert client.get(paths[0]).status_code == 404
