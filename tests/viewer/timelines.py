"""Calls for timelines, and what is read off them."""

from __future__ import annotations

EPSILON_S = 0.002  # times are kept to the millisecond


def span(number, start, end, session=1):
    return {"id": number, "start": start, "end": end, "session": session}


def slow_path(spans):
    """The definition: of the calls that were over when this one was sent, the one that ended last."""

    def rank(one):
        return one["end"], one["start"], one["id"]

    path = [max(spans, key=rank)]
    while True:
        at = path[-1]["start"]
        over = [one for one in spans if one["end"] <= at + EPSILON_S and one["start"] < at]
        if not over:
            return [one["id"] for one in reversed(path)]
        path.append(max(over, key=rank))


def call(number, node, sent_at, duration_s=None, state="settled", source="model", error=None):
    """The records of a call, as a batch has them."""
    sent = {"id": number, "path": "", "node": node, "backend": "b", "question": number, "first_sample": 0}
    outcome = {"call": number, "state": state, "source": source, "duration_s": duration_s, "usage": {}, "error": error}
    return {"calls": [{**sent, "num_samples": 1, "sent_at": sent_at}], "outcomes": [] if state is None else [outcome]}


def attempt(number, at, status):
    return {
        "attempts": [{"call": number, "at": at, "duration_s": 0.1, "status": status, "error": "no", "is_billed": False}]
    }


def said(page):
    return page.get_by_test_id("timeline-said").inner_text()


# Which columns of a canvas have points of a colour.
COLUMNS_OF = """(canvas, color) => {
  const wanted = [1, 3, 5].map((at) => parseInt(color.slice(at, at + 2), 16));
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  const found = new Set();
  for (let at = 0; at < data.length; at += 4) {
    if (wanted.every((part, index) => data[at + index] === part)) {
      found.add((at / 4) % canvas.width);
    }
  }
  return [...found];
}"""
