"""Reasoning that a model writes into its reply as ``<think>…</think>``, kept apart from the answer."""

from __future__ import annotations

from typing import Literal

_OPEN, _CLOSE = "<think>", "</think>"

Piece = tuple[Literal["text", "reasoning", "retract"], str]


class ReasoningSplitter:
    """Splits a reply into reasoning and text, piece by piece as it comes.

    Reasoning stands at the beginning. A chat template may have written the opening tag itself, so that the reply only
    holds the closing one: then all before it was reasoning, and what had been given out as text is taken back. An
    opening tag that is never closed makes all of the reply reasoning without an answer.
    """

    def __init__(self) -> None:
        self.text = ""
        self.reasoning = ""
        self._held = ""
        self._parts: list[str] = []
        self._state: Literal["start", "reasoning", "gap", "text", "answer"] = "start"

    def feed(self, piece: str) -> list[Piece]:
        """Take in the next piece of the reply; returns what is known of it by now."""
        self._held += piece
        out: list[Piece] = []
        while self._step(out):
            pass
        return out

    def finish(self) -> list[Piece]:
        """What was held back, at the end of the reply; ``text`` and ``reasoning`` are whole from here on."""
        out: list[Piece] = []
        if self._held:
            rest, self._held = self._held, ""
            if self._state == "reasoning":
                self._reason(rest, out)
            elif self._state != "gap":
                self._say(rest, out)
        self._join()
        return out

    def _step(self, out: list[Piece]) -> bool:
        """One transition; whether another may follow."""
        if self._state == "start":
            begin = self._held.lstrip()
            if begin.startswith(_OPEN):
                self._held, self._state = begin[len(_OPEN) :], "reasoning"
                return True
            if _OPEN.startswith(begin):  # too little to tell
                return False
            self._state = "text"
            return True
        if self._state == "gap":  # the blank lines between reasoning and answer belong to neither
            self._held = self._held.lstrip("\r\n")
            if self._held:
                self._state = "answer"
            return bool(self._held)
        if self._state == "answer":
            self._say(self._held, out)
            self._held = ""
            return False
        return self._until_close(out)

    def _until_close(self, out: list[Piece]) -> bool:
        before, close, after = self._held.partition(_CLOSE)
        if close:
            if self._state == "reasoning":
                self._reason(before, out)
            else:
                self._say(before, out)
                self._join()
                if self.text:
                    out += [("retract", ""), ("reasoning", self.text)]
                self.reasoning, self.text = self.text, ""
            self._join()
            self._held, self._state = after, "gap"
            return True
        keep = next((n for n in range(len(_CLOSE) - 1, 0, -1) if self._held.endswith(_CLOSE[:n])), 0)
        ready, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        (self._reason if self._state == "reasoning" else self._say)(ready, out)
        return False

    def _say(self, text: str, out: list[Piece]) -> None:
        if text:
            self._parts.append(text)
            out.append(("text", text))

    def _reason(self, text: str, out: list[Piece]) -> None:
        if text:
            self._parts.append(text)
            out.append(("reasoning", text))

    def _join(self) -> None:
        """Move the parts of the current stretch to where they belong; once a stretch, so that it stays linear."""
        whole = "".join(self._parts)
        self._parts = []
        if self._state == "reasoning":
            self.reasoning += whole
        else:
            self.text += whole


def split_reasoning(reply: str) -> tuple[str, str | None]:
    """The text of a whole reply and its reasoning, ``None`` where there is none."""
    if "think>" not in reply:
        return reply, None
    splitter = ReasoningSplitter()
    splitter.feed(reply)
    splitter.finish()
    return splitter.text, splitter.reasoning or None
