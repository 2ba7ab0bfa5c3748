"""A sweep's results as tables and as JSON values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from llmprog.bench.measures import Estimate
from llmprog.bench.sweep import Point, Report


def tables(report: Report) -> str:
    """The tables of a report, as text: each setting, pass@k and majority@k, differences, what was spent."""
    parts = [_settings_table(report)]
    for series, points in report.series().items():
        rows = points[-1].at_k()
        if rows:
            title = " ".join(filter(None, (series, points[-1].variant.setting)))
            head = ("k", "pass@k", "95 %", "majority@k", "95 %")
            body = [(str(k), percent(p.value), interval(p), percent(m.value), interval(m)) for k, p, m in rows]
            parts.append(f"{title}, of its samples:\n{aligned([head, *body])}")
    parts += [
        f"{series} − {first}: {_points(gap)} (95 % {_points(gap, 'low')} to {_points(gap, 'high')})"
        for series, first, gap in report.differences()
    ]
    failed = [point for point in report.points if point.num_failed]
    parts += [
        f"{_name(point)}: {point.num_failed} of {point.num_runs} runs failed, the first with {point.error}"
        for point in failed
    ]
    parts.append(_spent(report))
    return "\n\n".join(parts) + "\n"


def _settings_table(report: Report) -> str:
    has_price = any(point.usage.usd for point in report.points)
    head = ["", report.measure, "95 %", "calls", "tokens", *(["usd"] if has_price else [])]
    rows = [head]
    for point in report.points:
        accuracy = point.accuracy
        row = [_name(point), percent(accuracy.value), interval(accuracy)]
        row += [f"{point.mean_usage('calls'):.1f}", f"{point.mean_usage('tokens'):.0f}"]
        if has_price:
            usd = point.mean_usage("usd")
            row.append("unknown" if usd is None else f"{usd:.6f}")
        rows.append(row)
    return f"{report.num_questions} questions; calls, tokens and dollars a question\n{aligned(rows)}"


def _name(point: Point) -> str:
    return " ".join(filter(None, (point.variant.series, point.variant.setting)))


def _spent(report: Report) -> str:
    usage = report.shared.usage
    alone = sum(point.usage.calls for point in report.points)
    usd = "" if usage.usd == 0 else ", cost unknown" if usage.usd is None else f", ${usage.usd:.4f}"
    return f"made {usage.calls:,} calls{usd}; one by one the settings above would have made {alone:,}"


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows as columns: the first to the left, the others to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join([row[0].ljust(widths[0]), *cells]).rstrip())
    return "\n".join(lines)


def percent(share: float) -> str:
    """A share in percent."""
    return f"{100 * share:.1f} %"


def interval(estimate: Estimate) -> str:
    """An interval in percent."""
    return f"{100 * estimate.low:.1f}–{100 * estimate.high:.1f}"


def _points(gap: Estimate, of: str = "value") -> str:
    return f"{100 * getattr(gap, of):+.1f} points"


def to_json(report: Report) -> dict[str, Any]:
    """The report as JSON values."""
    usage = report.shared.usage
    return {
        "measure": report.measure,
        "questions": report.num_questions,
        "points": [_point_to_json(point) for point in report.points],
        "differences": [
            {"series": series, "baseline": first, **asdict(gap)} for series, first, gap in report.differences()
        ],
        "usage": asdict(usage),
        "shortfall": report.shared.shortfall,
    }


def _point_to_json(point: Point) -> dict[str, Any]:
    return {
        "series": point.variant.series,
        "setting": point.variant.setting,
        "accuracy": asdict(point.accuracy),
        "values": list(point.values),
        "calls": point.mean_usage("calls"),
        "tokens": point.mean_usage("tokens"),
        "usd": point.mean_usage("usd"),
        "failed": point.num_failed,
        "at_k": [{"k": k, "pass": asdict(p), "majority": asdict(m)} for k, p, m in point.at_k()],
    }
