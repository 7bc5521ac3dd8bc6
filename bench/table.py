"""Results as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from bench.results import Results
from bench.rival import Rival
from bench.workload import Measure


def format_number(value: float | None) -> str:
    """Give a number with what can be believed of it: two digits, or all before the point."""
    if value is None:
        return "-"
    # Memory can shrink a little where nothing is kept.
    size = abs(value)
    if size >= 9.95:
        return f"{value:,.0f}"
    return f"{value:.1f}" if size >= 0.95 else f"{value:.2f}"


def make_table(rows: Sequence[Sequence[str]]) -> str:
    """Give rows as a table, the first as its head; all but the first column is numbers."""
    head, *body = rows
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def tabulate(results: Results, rivals: Sequence[Rival], measures: Sequence[Measure]) -> str:
    """Give the medians: a row for each measure, a column for each rival."""
    rows = [["", *(rival.title for rival in rivals)]]
    for measure in measures:
        cells = [format_number(results.median(measure.key, rival.name)) for rival in rivals]
        rows.append([f"{measure.title}, {measure.unit}", *cells])
    return make_table(rows)


def tabulate_ratios(
    results: Results, rivals: Sequence[Rival], measures: Sequence[Measure], ours: str = "pushd"
) -> str:
    """Give how many times each rival's figure ours is: below 1, we are cheaper."""
    others = [rival for rival in rivals if rival.name != ours]
    rows = [["", *(rival.title for rival in others)]]
    for measure in measures:
        cells = [format_number(results.ratio(measure.key, ours, rival.name)) for rival in others]
        rows.append([measure.title, *cells])
    return make_table(rows)


def tabulate_goals(results: Results, measures: Sequence[Measure], ours: str = "pushd") -> str:
    """Give what each goal asks, what was measured, and how far the rounds lie apart."""
    rows = [["", "pushd", "least and most", "rounds", "goal"]]
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
