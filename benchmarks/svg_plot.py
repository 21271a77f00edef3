"""A line plot as an SVG file, for results that are read on a web page: one colour a series, no library.

Axes are logarithmic, or linear where the values' range is given (shares, from 0 to 1).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_WIDTH, _HEIGHT = 640, 400
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 130, 40, 50
_COLORS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e")


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """A line: its name, and its (x, y) points, all positive if the axes are logarithmic."""

    name: str
    points: tuple[tuple[float, float], ...]


def write_plot(
    path: Path, series: Sequence[Series], *, title: str, x_label: str, y_label: str, y_range: tuple[float, float] | None = None
) -> None:
    """Write the plot; x ticks at the points themselves, y ticks at 1, 2 and 5 of each decade.

    With ``y_range`` both axes are linear, and y has five steps from the lower to the upper value.
    """
    xs = sorted({x for line in series for x, _ in line.points})
    ys = [y for line in series for _, y in line.points]
    y_ticks = _ticks(min(ys), max(ys)) if y_range is None else [y_range[0] + step / 5 * (y_range[1] - y_range[0]) for step in range(6)]
    is_linear = y_range is not None
    x_axis = _Axis(xs[0], xs[-1], _LEFT, _WIDTH - _RIGHT, is_linear)
    y_axis = _Axis(y_ticks[0], y_ticks[-1], _HEIGHT - _BOTTOM, _TOP, is_linear)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif" font-size="12">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
        _text(_LEFT, 20, title, anchor="start", size=14),
        _text((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 12, x_label),
        f'<g transform="translate(16 {(_TOP + _HEIGHT - _BOTTOM) / 2}) rotate(-90)">{_text(0, 0, y_label)}</g>',
    ]
    for x in xs:
        parts += [_line(x_axis(x), _TOP, x_axis(x), _HEIGHT - _BOTTOM, "#eee"), _text(x_axis(x), _HEIGHT - _BOTTOM + 18, f"{x:g}")]
    for y in y_ticks:
        parts += [_line(_LEFT, y_axis(y), _WIDTH - _RIGHT, y_axis(y), "#ddd"), _text(_LEFT - 8, y_axis(y) + 4, f"{y:g}", anchor="end")]
    for color, line in zip(_COLORS, series, strict=False):
        points = [(x_axis(x), y_axis(y)) for x, y in line.points]
        path_points = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        parts.append(f'<polyline points="{path_points}" fill="none" stroke="{color}" stroke-width="2"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{color}"/>' for x, y in points]
        parts.append(_text(points[-1][0] + 10, points[-1][1] + 4, line.name, anchor="start", color=color))
    path.write_text("\n".join([*parts, "</svg>"]) + "\n")


@dataclass(frozen=True, slots=True)
class _Axis:
    """Maps [low, high] to pixels, by logarithms if it is not linear."""

    low: float
    high: float
    from_pixel: float
    to_pixel: float
    is_linear: bool

    def __call__(self, value: float) -> float:
        low, value, high = (number if self.is_linear else math.log(number) for number in (self.low, value, self.high))
        share = (value - low) / (high - low or 1.0)
        return self.from_pixel + share * (self.to_pixel - self.from_pixel)


def _ticks(low: float, high: float) -> list[float]:
    """Return the 1, 2 and 5 of each decade from the last one at or below ``low`` to the first one at or above ``high``."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [step * 10.0**decade for decade in decades for step in (1, 2, 5)]
    first = max((tick for tick in ticks if tick <= low), default=ticks[0])
    last = min((tick for tick in ticks if tick >= high), default=ticks[-1])
    return [tick for tick in ticks if first <= tick <= last]


def _line(x1: float, y1: float, x2: float, y2: float, color: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{color}"/>'


def _text(x: float, y: float, text: str, *, anchor: str = "middle", size: int = 12, color: str = "#222") -> str:
    escaped = text.replace("&", "&amp;").replace("<", "&lt;")
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" fill="{color}">{escaped}</text>'
