"""Format results as Markdown tables."""

from __future__ import annotations

from collections.abc import Sequence

from bench.results import Results
from bench.rival import Rival
from bench.workload import Measure


def format_number(value: float | None) -> str:
    """Format a number with its significant digits: two, or all before the decimal point."""
    if value is None:
        return "-"
    # A difference of memory may be slightly negative.
    size = abs(value)
    if size >= 9.95:
        return f"{value:,.0f}"
    return f"{value:.1f}" if size >= 0.95 else f"{value:.2f}"


def make_table(rows: Sequence[Sequence[str]]) -> str:
    """Format rows as a table; the first row is the header, the first column is text."""
    head, *body = rows
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def tabulate(results: Results, rivals: Sequence[Rival], measures: Sequence[Measure]) -> str:
    """Format the medians: a row for each measure, a column for each rival."""
    rows = [["", *(rival.title for rival in rivals)]]
    for measure in measures:
        cells = [format_number(results.median(measure.key, rival.name)) for rival in rivals]
        rows.append([f"{measure.title}, {measure.unit}", *cells])
    return make_table(rows)


def tabulate_ratios(
    results: Results, rivals: Sequence[Rival], measures: Sequence[Measure], ours: str = "pushd"
) -> str:
    """Format the ratios of our figure to each rival's: below 1, ours is lower.

    A measure that no rival shares has no row. Without any row, an empty text is returned.
    """
    others = [rival for rival in rivals if rival.name != ours]
    rows = [["", *(rival.title for rival in others)]]
    for measure in measures:
        ratios = [results.ratio(measure.key, ours, rival.name) for rival in others]
        if any(ratio is not None for ratio in ratios):
            rows.append([measure.title, *map(format_number, ratios)])
    return make_table(rows) if rows[1:] else ""


def tabulate_goals(results: Results, measures: Sequence[Measure], ours: str = "pushd") -> str:
    """Format each goal with the median and the spread of the rounds."""
    rows = [["", "pushd", "range", "rounds", "goal"]]
    for measure in measures:
        spread = results.spread(measure.key, ours)
        if spread is None:
            continue
        rows.append(
            [
                f"{measure.title}, {measure.unit}",
                format_number(results.median(measure.key, ours)),
                " to ".join(map(format_number, spread)),
                f"{results.count(measure.key, ours)}",
                results.judge(measure, ours) or "-",
            ]
        )
    return make_table(rows)
