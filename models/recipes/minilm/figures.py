"""A confusion matrix as an SVG picture: rows are what is true, columns what was answered, darker is more of its row."""

from collections.abc import Sequence
from html import escape

_SIDE = 560
_MAX_NAMED = 20
_RIGHT, _WRONG = "#4a86c5", "#d0552f"
_FONT = 'font-family="sans-serif" font-size="11" fill="#333"'


def confusion_svg(title: str, labels: Sequence[str], counts: Sequence[Sequence[int]]) -> str:
    """Return the picture; names and numbers stand in it where there are few labels."""
    is_named = len(labels) <= _MAX_NAMED
    cell = _SIDE / len(labels)
    left, top = (130, 110) if is_named else (40, 60)
    width, height = left + _SIDE + 20, top + _SIDE + 20
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">',
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
        f'<text x="{left}" y="20" {_FONT} font-weight="bold">{escape(title)}</text>',
        f'<text x="{left}" y="38" {_FONT}>rows: true, columns: answered; darker is a larger share of the row</text>',
        f'<rect x="{left}" y="{top}" width="{_SIDE}" height="{_SIDE}" fill="none" stroke="#999"/>',
    ]
    for row, row_counts in enumerate(counts):
        total = sum(row_counts)
        for column, count in enumerate(row_counts):
            if count == 0:
                continue
            x, y, share = left + column * cell, top + row * cell, count / total
            # Even a single mistake is to be seen.
            parts.append(
                f'<rect x="{x:.2f}" y="{y:.2f}" width="{cell:.2f}" height="{cell:.2f}" fill="{_RIGHT if column == row else _WRONG}" '
                f'fill-opacity="{0.15 + 0.85 * share:.2f}"/>'
            )
            if is_named:
                parts.append(f'<text x="{x + cell / 2:.1f}" y="{y + cell / 2 + 4:.1f}" text-anchor="middle" {_FONT}>{count}</text>')
    if is_named:
        for index, label in enumerate(labels):
            at = (index + 0.5) * cell
            parts.append(f'<text x="{left - 6}" y="{top + at + 4:.1f}" text-anchor="end" {_FONT}>{escape(label)}</text>')
            x = left + at
            parts.append(f'<text x="{x:.1f}" y="{top - 6}" transform="rotate(-35 {x:.1f} {top - 6})" {_FONT}>{escape(label)}</text>')
    return "\n".join([*parts, "</svg>", ""])
