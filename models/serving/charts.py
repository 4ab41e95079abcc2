"""Charts as SVG, without scripts or style attributes (the security policy forbids them), each with a text label."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from markupsafe import Markup

from models.serving.formatting import Vital, number
from models.spikes import spikes_of
from vitalake.clinical.records import History

HOURS = 24
MOST_POINTS = 360
"""Points of a line: about one per pixel. More are thinned so that peaks stay visible."""

WIDTH, HEIGHT = 400, 108
_LEFT, _RIGHT, _TOP, _BOTTOM = 34, 10, 8, 18

SPARK_WIDTH, SPARK_HEIGHT = 84, 26
_SPARK_TOP = 14
"""The NEWS2 total at the sparkline's upper edge, the same for all rows, so that they can be compared."""


def sparkline(totals: Sequence[int | None], now: int | None) -> Markup:
    """Return NEWS2 over the last twelve hours as a small line; the dashed line marks 7."""
    series = [*totals, now]
    step = (SPARK_WIDTH - 6) / max(1, len(series) - 1)
    points = [(3 + i * step, _spark_y(total)) for i, total in enumerate(series) if total is not None]
    known = [total for total in series if total is not None]
    label = "NEWS2 of the last twelve hours: " + (f"from {known[0]} to {known[-1]}" if known else "not known")
    parts = [
        f'<svg class="spark" viewBox="0 0 {SPARK_WIDTH} {SPARK_HEIGHT}" width="{SPARK_WIDTH}" height="{SPARK_HEIGHT}" '
        f'role="img" aria-label="{label}">',
        f'<line class="limit" x1="0" x2="{SPARK_WIDTH}" y1="{_spark_y(7):.1f}" y2="{_spark_y(7):.1f}"/>',
    ]
    if points:
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        x, y = points[-1]
        parts.append(f'<polyline points="{line}"/><circle cx="{x:.1f}" cy="{y:.1f}" r="2.5"/>')
    return Markup("".join(parts) + "</svg>")  # noqa: S704 - numbers of ours only


def _spark_y(total: int) -> float:
    return SPARK_HEIGHT - 3 - min(total, _SPARK_TOP) / _SPARK_TOP * (SPARK_HEIGHT - 6)


def trend(vital: Vital, rows: History, *, now_us: int, hours: int = HOURS) -> Markup:
    """Return the chart of a vital sign: a line with its points; the range that scores 0 is shaded."""
    begin_us = now_us - hours * 3_600_000_000
    recent = rows.where(rows.effective_us > begin_us)
    low, high = vital.span
    if len(recent):
        low, high = min(low, float(recent.value.min())), max(high, float(recent.value.max()))
    if high <= low:
        high = low + 1

    def x(us: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        return _LEFT + (us - begin_us) / (hours * 3.6e9) * (WIDTH - _LEFT - _RIGHT)

    def y(value: float) -> float:
        return _TOP + (high - value) / (high - low) * (HEIGHT - _TOP - _BOTTOM)

    parts = [_open(vital, recent, hours)]
    if vital.normal:
        top, bottom = y(min(vital.normal[1], high)), y(max(vital.normal[0], low))
        band = f'<rect class="normal" x="{_LEFT}" width="{WIDTH - _LEFT - _RIGHT}" y="{top:.1f}"'
        parts.append(f'{band} height="{max(1.0, bottom - top):.1f}"/>')
    parts += [
        f'<text class="tick" x="{_LEFT - 5}" y="{y(value) + 4:.1f}" text-anchor="end">'
        f"{number(value, vital.decimals)}</text>"
        for value in (low, high)
    ]
    parts += _hours(hours)
    if len(recent):
        times, values = _thin(recent)
        line = " ".join(f"{px:.1f},{y(value):.1f}" for px, value in zip(x(times), values, strict=True))
        parts.append(f'<polyline points="{line}"/>')
        dots = zip(x(times), values, strict=True) if len(times) <= 60 else []
        parts += [f'<circle class="dot" cx="{px:.1f}" cy="{y(value):.1f}" r="1.8"/>' for px, value in dots]
        for i in spikes_of(vital.part, recent):
            px = float(x(recent.effective_us[i : i + 1])[0])
            parts.append(f'<circle class="spike" cx="{px:.1f}" cy="{y(float(recent.value[i])):.1f}" r="5"/>')
        px, last = float(x(recent.effective_us[-1:])[0]), float(recent.value[-1])
        parts.append(f'<circle class="last" cx="{px:.1f}" cy="{y(last):.1f}" r="3.2"/>')
    return Markup("".join(parts) + "</svg>")  # noqa: S704 - numbers and names of ours only


def _open(vital: Vital, recent: History, hours: int) -> str:
    if len(recent):
        spread = [number(float(value), vital.decimals) for value in (recent.value.min(), recent.value.max())]
        text = (
            f"between {spread[0]} and {spread[1]} {vital.unit}, last {number(float(recent.value[-1]), vital.decimals)}"
        )
        lone = len(spikes_of(vital.part, recent))
        text += f", {lone} isolated, possible artefact" if lone else ""
    else:
        text = "no value"
    return (
        f'<svg class="trend" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{vital.name}, last {hours} hours: {text}">'
    )


def _hours(hours: int) -> list[str]:
    parts = []
    for back in range(hours, -1, -6):
        px = _LEFT + (hours - back) / hours * (WIDTH - _LEFT - _RIGHT)
        anchor = "start" if back == hours else "end" if back == 0 else "middle"
        parts.append(f'<line class="grid" x1="{px:.1f}" x2="{px:.1f}" y1="{_TOP}" y2="{HEIGHT - _BOTTOM}"/>')
        word = "now" if back == 0 else f"−{back} h"
        parts.append(f'<text class="tick" x="{px:.1f}" y="{HEIGHT - 4}" text-anchor="{anchor}">{word}</text>')
    return parts


def _thin(rows: History) -> tuple[npt.NDArray[np.int64], list[float]]:
    """Return times and values, at most MOST_POINTS; of each section the lowest and the highest are kept."""
    if len(rows) <= MOST_POINTS:
        return rows.effective_us, rows.value.tolist()
    kept: list[int] = []
    for part in np.array_split(np.arange(len(rows)), MOST_POINTS // 2):
        kept += sorted({int(part[rows.value[part].argmin()]), int(part[rows.value[part].argmax()])})
    return rows.effective_us[kept], rows.value[kept].tolist()
