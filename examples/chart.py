"""A bar chart as SVG, written by hand: two panels, one row for each server.

`draw` returns the text of a picture that any browser shows. There is nothing to install, and
nothing in the picture is loaded from elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from html import escape

WIDTH = 960
LABEL_WIDTH = 190
PANEL_GAP = 70
TOP = 112
ROW = 74
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
INK, MUTED, GRID = "#1b2733", "#66758a", "#e3e8ee"
RATE_COLOURS = ("#9aa7b8", "#5ab4ac", "#0b7a75", "#075e5a")
P50_COLOUR, P99_COLOUR = "#6c9bd2", "#27528a"


@dataclass(frozen=True, slots=True)
class Row:
    """What one server did: medians, and the spread of the requests per second."""

    label: str
    rate: float
    """Requests per second."""
    low: float
    high: float
    p50: float
    """Milliseconds."""
    p99: float
    speedup: float
    """`rate` as a multiple of the first row's."""


def draw(title: str, subtitle: str, rows: list[Row], footnotes: list[str]) -> str:
    """The whole picture."""
    panel = (WIDTH - LABEL_WIDTH - PANEL_GAP - 90) / 2
    left, right = LABEL_WIDTH + 10, LABEL_WIDTH + 10 + panel + PANEL_GAP
    bottom = TOP + ROW * len(rows)
    height = bottom + 62 + 18 * len(footnotes)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}"',
        f'width="{WIDTH}" height="{height}" font-family="{FONT}" role="img">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{WIDTH}" height="{height}" rx="10" fill="#ffffff"/>',
        text(28, 40, title, size=21, weight=650),
        text(28, 63, subtitle, size=13, colour=MUTED),
    ]
    rate_scale = Scale(left, panel, max(row.high for row in rows))
    time_scale = Scale(right, panel, max(row.p99 for row in rows))
    parts += axis(rate_scale, bottom, "requests per second (more is better)")
    parts += axis(time_scale, bottom, "latency, ms (less is better)")
    parts += legend(time_scale.left, bottom + 44)
    for number, row in enumerate(rows):
        y = TOP + ROW * number
        parts.append(text(LABEL_WIDTH, y + 33, row.label, size=14, anchor="end", weight=600))
        parts += rate_bar(rate_scale, y, row, RATE_COLOURS[min(number, len(RATE_COLOURS) - 1)])
        parts += latency_bars(time_scale, y, row)
    for number, note in enumerate(footnotes):
        parts.append(text(28, bottom + 74 + 18 * number, note, size=11.5, colour=MUTED))
    parts.append("</svg>")
    return "\n".join(parts) + "\n"


@dataclass(frozen=True, slots=True)
class Scale:
    """Maps a value to a place in a panel."""

    left: float
    width: float
    most: float

    def x(self, value: float) -> float:
        """Where `value` lies."""
        return self.left + self.width * value / (self.most or 1)

    def ticks(self) -> list[float]:
        """A few round values from 0 up."""
        step = 1.0
        while self.most / step > 5:
            step *= 2.5 if str(step)[0] == "2" else 2
        while self.most / step < 2:
            step /= 2
        return [step * n for n in range(int(self.most / step) + 1)]


def text(
    x: float,
    y: float,
    words: str,
    *,
    size: float,
    colour: str = INK,
    anchor: str = "start",
    weight: int = 400,
) -> str:
    """One line of text."""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" fill="{colour}" '
        f'text-anchor="{anchor}" font-weight="{weight}">{escape(words)}</text>'
    )


def bar(x: float, y: float, width: float, height: float, colour: str) -> str:
    """One bar, never thinner than a hair."""
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(width, 1):.1f}" height="{height}" rx="3" fill="{colour}"/>'


def line(x1: float, y1: float, x2: float, y2: float, colour: str, width: float = 1) -> str:
    """One straight line."""
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" stroke-width="{width}"/>'


def axis(scale: Scale, bottom: float, heading: str) -> list[str]:
    """A panel's heading, its vertical rules and the numbers under them."""
    parts = [text(scale.left, TOP - 14, heading, size=12.5, colour=MUTED, weight=600)]
    for tick in scale.ticks():
        x = scale.x(tick)
        parts.append(line(x, TOP, x, bottom, GRID))
        parts.append(text(x, bottom + 17, f"{tick:g}", size=11, colour=MUTED, anchor="middle"))
    return parts


def legend(x: float, y: float) -> list[str]:
    """Which of the two latencies is which."""
    return [
        bar(x, y - 9, 12, 10, P50_COLOUR),
        text(x + 18, y, "p50", size=12, colour=MUTED),
        bar(x + 62, y - 9, 12, 10, P99_COLOUR),
        text(x + 80, y, "p99", size=12, colour=MUTED),
    ]


def rate_bar(scale: Scale, y: float, row: Row, colour: str) -> list[str]:
    """Requests per second, with the spread as a whisker and the speed-up behind it."""
    middle = y + 28
    low, high = scale.x(row.low), scale.x(row.high)
    after = max(scale.x(row.rate), high) + 8
    return [
        bar(scale.left, y + 12, scale.x(row.rate) - scale.left, 32, colour),
        line(low, middle, high, middle, INK, 1.4),
        line(low, middle - 5, low, middle + 5, INK, 1.4),
        line(high, middle - 5, high, middle + 5, INK, 1.4),
        text(after, middle - 2, f"{row.rate:,.0f}", size=14, weight=650),
        text(after, middle + 14, f"{row.speedup:.2f}×", size=12.5, colour=MUTED),
    ]


def latency_bars(scale: Scale, y: float, row: Row) -> list[str]:
    """The median and the 99th percentile."""
    parts: list[str] = []
    for at, value, colour in ((12, row.p50, P50_COLOUR), (29, row.p99, P99_COLOUR)):
        x = scale.x(value)
        parts.append(bar(scale.left, y + at, x - scale.left, 15, colour))
        parts.append(text(x + 6, y + at + 12, f"{value:.3g}" if value < 100 else f"{value:,.0f}", size=12))
    return parts
