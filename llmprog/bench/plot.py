"""Test-time-compute curves as a picture: accuracy against calls, tokens or dollars."""

from __future__ import annotations

import importlib.util
import os
from math import ceil, floor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmprog.bench.sweep import Point, Report, UsageKind
from llmprog.errors import MissingExtraError, OptionError

if TYPE_CHECKING:
    from llmprog.bench.measures import Estimate

_LABELS = {"calls": "calls a question", "tokens": "tokens a question", "usd": "US dollars a question"}
_FORMATS = (".png", ".svg", ".pdf")


def refuse_unplottable(path: str | os.PathLike[str]) -> None:
    """Refuse a plot that could not be drawn, before anything is paid for.

    Raises:
        MissingExtraError: matplotlib is not installed.
        OptionError: The file would be of an unknown format, or its folder is not there.
    """
    place = Path(path)
    if place.suffix.lower() not in _FORMATS:
        raise OptionError(f"a plot to {str(path)!r}; allowed are files that end in {', '.join(_FORMATS)}")
    if not place.absolute().parent.is_dir():
        raise OptionError(f"a plot to {str(path)!r}: its folder is not there; make it first")
    if importlib.util.find_spec("matplotlib") is None:
        raise MissingExtraError("a plot", "matplotlib", "plot")


def save_plot(report: Report, path: str | os.PathLike[str], *, x: UsageKind = "calls", title: str = "") -> None:
    """Draw a report: a curve with 95 % intervals for each series, and pass@k and majority@k of its last point.

    Args:
        report: At least one point.
        path: Where to; ``.png``, ``.svg`` or ``.pdf``.
        x: What a run took, along the horizontal axis.
        title: Above it.

    Raises:
        OptionError: There is nothing to draw, or its prices are unknown.
    """
    refuse_unplottable(path)
    from matplotlib.figure import Figure

    if not report.points:
        raise OptionError("a plot of no points; at least one setting must have come to its end")
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for number, (series, unsorted) in enumerate(report.series().items()):
        colour = f"C{number}"
        points = sorted(unsorted, key=lambda point: _place(point, x))
        places = [_place(point, x) for point in points]
        _draw(axes, places, [point.accuracy for point in points], label=series, color=colour, marker="o")
        largest = points[-1]
        at_k = largest.at_k()
        if at_k:
            scale = places[-1] / at_k[-1][0]
            places_k = [k * scale for k, _, _ in at_k]
            for what, values, style in (
                ("majority@k", [m.value for _, _, m in at_k], "--"),
                ("pass@k", [p.value for _, p, _ in at_k], ":"),
            ):
                axes.plot(places_k, [100 * v for v in values], style, color=colour, label=f"{series}: {what}")
    if min(_place(point, x) for point in report.points) > 0:
        axes.set_xscale("log", base=10 if x == "usd" else 2)
        if x != "usd":
            axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_xlabel(_LABELS[x])
    axes.set_ylabel(f"{report.measure}, % of {report.num_questions} questions")
    low, high = _span(report)
    axes.set_ylim(10 * floor(10 * low), 10 * ceil(10 * high))
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    axes.set_title(title)
    try:
        figure.savefig(path, dpi=150)
    except OSError as error:
        raise OptionError(f"the plot cannot be written to {str(path)!r}: {error.strerror or error}") from error


def _span(report: Report) -> tuple[float, float]:
    """The least and the greatest share that is drawn."""
    shares = [bound for point in report.points for bound in (point.accuracy.low, point.accuracy.high)]
    for points in report.series().values():
        shares += [estimate.value for _, *estimates in points[-1].at_k() for estimate in estimates]
    return min(shares), max(shares)


def _place(point: Point, x: UsageKind) -> float:
    place = point.mean_usage(x)
    if place is None:
        raise OptionError("a plot against dollars needs prices; give them (--set prices=FILE), or plot against tokens")
    return place


def _draw(axes: Any, places: list[float], estimates: list[Estimate], **style: Any) -> None:
    below = [100 * (estimate.value - estimate.low) for estimate in estimates]
    above = [100 * (estimate.high - estimate.value) for estimate in estimates]
    values = [100 * estimate.value for estimate in estimates]
    axes.errorbar(places, values, yerr=[below, above], capsize=3, **style)
