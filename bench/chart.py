"""The chart of the results, in SVG: a panel of bars for each measure, for light and dark pages."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from html import escape

from bench.results import Results
from bench.rival import Rival
from bench.table import format_number
from bench.workload import Measure

# In pixels.
WIDTH, NAME, BAR, LINE, HEAD, GAP = 430, 130, 220, 17, 26, 24

# Bars are cut off at this multiple of the median, so that the others can be told apart.
LONGEST = 2.5

STYLE = """
text { font: 12px system-ui, sans-serif; fill: #24292f }
.head { font-weight: 600 }
.bar { fill: #9aa4af } .ours { fill: #2f6fde } .floor { fill: #cdd3d9 }
.cut { stroke: #ffffff; stroke-width: 3 }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 }
  .bar { fill: #6e7781 } .ours { fill: #58a6ff } .floor { fill: #444c56 }
  .cut { stroke: #0d1117 }
}
"""


def draw_chart(results: Results, rivals: Sequence[Rival], measures: Sequence[Measure]) -> str:
    """Draw the medians as SVG. Without a measurement there is no bar."""
    panels: list[str] = []
    # Two columns; each panel goes into the shorter one.
    heights = [0, 0]
    for measure in measures:
        bars = [
            (rival, value)
            for rival in rivals
            if (value := results.median(measure.key, rival.name)) is not None
        ]
        if not bars:
            continue
        column = heights.index(min(heights))
        panel = draw_panel(f"{measure.title}, {measure.unit}", bars)
        panels.append(
            f'<g transform="translate({column * (WIDTH + GAP)} {heights[column]})">{panel}</g>'
        )
        heights[column] += HEAD + LINE * len(bars) + GAP
    width, height = 2 * WIDTH + GAP, max(heights)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" role="img">'
        f"<title>pushd and its rivals: lower is better</title>"
        f"<style>{STYLE}</style>{''.join(panels)}</svg>\n"
    )


def draw_panel(title: str, bars: Sequence[tuple[Rival, float]]) -> str:
    """Draw a title and a bar for each rival, the lowest figure first."""
    bars = sorted(bars, key=lambda bar: bar[1])
    longest = min(bars[-1][1], LONGEST * statistics.median(value for _, value in bars))
    parts = [f'<text class="head" x="0" y="16">{escape(title)}</text>']
    for number, (rival, value) in enumerate(bars):
        top = HEAD + LINE * number
        length = max(1.0, BAR * min(value, longest) / longest) if longest > 0 else 1.0
        kind = "ours" if rival.name == "pushd" else "bar"
        if rival.name.startswith("floor"):
            kind = "floor"
        name = escape(rival.title.strip("*").replace("`", ""))
        parts.append(
            f'<text x="{NAME - 8}" y="{top + 12}" text-anchor="end">{name}</text>'
            f'<rect class="{kind}" x="{NAME}" y="{top + 2}" width="{length:.1f}" height="13"/>'
            f'<text x="{NAME + length + 6:.1f}" y="{top + 12}">{format_number(value)}</text>'
        )
        if value > longest:
            cut = NAME + 0.85 * BAR
            parts.append(f'<path class="cut" d="M{cut - 4:.1f} {top + 17} l8 -17" fill="none"/>')
    return "".join(parts)
