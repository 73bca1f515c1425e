"""Search for good settings with one trial per call, and report on it: for plans without a model.

A plan loops between `next_trial` and the step that runs the job. The table of trials is the
search's only memory, so a killed run resumes at the same trial. `fractale.agents.search` implements
the search.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from fractale.errors import DependencyMissing
from fractale.paths import open_file, takes_paths
from fractale.text import clip

if TYPE_CHECKING:
    from fractale.agents.search import Direction, Trial

CHART_HEIGHT = 8
"""Lines of the chart, without its axes."""

LABEL_COLUMNS, MOST_LABELS = 10, 6
"""plotille labels every tenth column; six labels make the chart wide enough."""

SHOWN_ERROR = 300

NO_VALUE = "it returned no value"
"""The error of a trial that reports neither a value nor an error."""


def next_trial(
    space: dict[str, Any],
    direction: Literal["minimize", "maximize"],
    trials: list[dict[str, Any]] | None = None,
    params: dict[str, Any] | None = None,
    value: float | None = None,
    error: str | None = None,
    seconds: float | None = None,
    algorithm: Literal["tpe", "cma-es", "grid", "random"] = "tpe",
    seed: int = 0,
    max_trials: int = 10,
    patience: int | None = None,
    target: float | None = None,
    max_failures: int = 3,
) -> dict[str, Any]:
    """Add the result of the last trial to the table, and propose what to try next.

    Args:
        space: For each parameter {type: int or float, low, high, log, step} or
            {type: categorical, choices: [...]}.
        direction: Whether to make the value as small or as large as possible.
        trials: The table so far, as this tool returned it; null at the start.
        params: The settings of the last trial, as this tool returned them; null at the start.
        value: The value of the last trial; null if it failed.
        error: Why the last trial failed.
        seconds: How long the last trial took.
        algorithm: The algorithm that proposes; the same table and seed give the same proposal.
        max_trials: The number of trials, including failed ones.
        patience: Stop after so many trials without a better one.
        target: Stop at a value at least this good.
        max_failures: Stop after so many failures in a row.

    Returns:
        `params` to try next; `stop`, with `stopped_by`: target, failures, budget, patience or
        exhausted; `trials`; and the best of them, `best` and `best_value`.
    """
    from fractale.agents.search import Proposal, Search, StopRules, best_of, next_line

    table = cast("list[Trial]", list(trials or []))
    if params:
        tried = Proposal(params=params, source=algorithm, why="")
        outcome = error or (NO_VALUE if value is None else value)
        table.append(next_line(table, tried, outcome, seconds or 0.0))
    rules = StopRules(
        direction=direction,
        max_trials=max_trials,
        patience=patience,
        target=target,
        max_failures=max_failures,
    )
    search = Search(space=space, rules=rules, algorithm=algorithm, seed=seed)
    proposal = search.propose(table)
    over = isinstance(proposal, str)
    best = best_of(table, direction)
    return {
        "params": None if over else proposal["params"],
        "stop": over,
        "stopped_by": proposal if over else None,
        "trials": table,
        "best": best["params"] if best else None,
        "best_value": best["value"] if best else None,
    }


@takes_paths(writes=["png"])
def trial_report(
    trials: list[dict[str, Any]],
    direction: Literal["minimize", "maximize"],
    name: str = "value",
    png: str | None = None,
) -> dict[str, Any]:
    """Report on a search: the table of its trials, a chart as text, and a chart as a picture.

    Args:
        trials: The table that `next_trial` or the agent `optimize` returned.
        direction: Whether small or large values are good.
        name: The name of the values, with their unit.
        png: A file to draw the picture into.

    Returns:
        `table` and `chart`, each a list of lines, `png` with the picture's path, `summary`, and
        the best trial's `params` and `value`.

    Raises:
        ValueError: No trial succeeded, or the picture cannot be written.
        DependencyMissing: The packages for drawing are not installed.
    """
    from fractale.agents.search import best_of

    best = best_of(trials, direction)
    if best is None:
        last = f"; the last: {trials[-1].get('error')}" if trials else ""
        raise ValueError(f"none of {len(trials)} trials succeeded{last}")
    good = [trial for trial in trials if trial.get("value") is not None]
    words = ", ".join(f"{key}={_cell(value)}" for key, value in best["params"].items())
    report: dict[str, Any] = {
        "table": _table(trials, best, name),
        "chart": _chart(good, direction, name),
        "summary": f"{name} {_cell(best['value'])} with {words} (trial {best['number']} of "
        f"{len(trials)}, {len(trials) - len(good)} failed)",
        "params": best["params"],
        "value": best["value"],
    }
    if png:
        report["png"] = _picture(good, len(trials), direction, name, Path(png))
    return report


def _table(trials: Sequence[Mapping[str, Any]], best: Mapping[str, Any], name: str) -> list[str]:
    """Format one line per trial, with a star before the best; reasons for failures follow."""
    params = list(dict.fromkeys(key for trial in trials for key in trial["params"]))
    head = ["trial", *params, name, "seconds", "by"]
    rows = [
        [
            f"{'*' if trial is best else ' '}{trial['number']}",
            *(_cell(trial["params"].get(key)) for key in params),
            _cell(trial["value"]) if trial.get("ok") else "failed",
            _cell(trial.get("seconds")),
            str(trial.get("source", "")),
        ]
        for trial in trials
    ]
    why: dict[str, list[str]] = {}
    for trial in trials:
        if not trial.get("ok"):
            said = clip(str(trial["error"]), SHOWN_ERROR)
            why.setdefault(said, []).append(str(trial["number"]))
    failed = [f"{', '.join(numbers)} failed: {error}" for error, numbers in why.items()]
    return [*_table_lines([head, *rows]), *failed]


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def _best_so_far(
    trials: Sequence[Mapping[str, Any]], direction: Direction
) -> tuple[list[int], list[float], list[float]]:
    """The numbers of the trials, their values, and the best value up to each trial."""
    pick = min if direction == "minimize" else max
    values = [float(trial["value"]) for trial in trials]
    best = [pick(values[: index + 1]) for index in range(len(values))]
    return [trial["number"] for trial in trials], values, best


def _chart(trials: Sequence[Mapping[str, Any]], direction: Direction, name: str) -> list[str]:
    """Draw the trials as crosses, and the best value so far as a line."""
    try:
        import plotille
    except ImportError as error:
        raise _missing(error) from error
    numbers, values, best = _best_so_far(trials, direction)
    figure: Any = plotille.Figure()
    step = -(-numbers[-1] // (MOST_LABELS - 1))  # trials between two labels
    figure.height = CHART_HEIGHT
    figure.width = math.ceil((numbers[-1] + 0.5) / step * LABEL_COLUMNS)
    figure.with_colors, figure.origin = False, False
    figure.x_label, figure.y_label = "trial", name
    figure.set_x_limits(min_=0, max_=figure.width * step / LABEL_COLUMNS)
    spread = (max(values) - min(values)) or abs(values[0]) or 1.0
    figure.set_y_limits(min_=min(values) - 0.05 * spread, max_=max(values) + 0.05 * spread)
    figure.register_label_formatter(float, _label)
    figure.register_label_formatter(int, _label)
    steps = [(number, value) for number, value in zip(numbers[1:], best[:-1], strict=True)]
    line = sorted([*steps, *zip(numbers, best, strict=True)], key=lambda point: point[0])
    figure.plot([x for x, _ in line], [y for _, y in line])
    figure.scatter(numbers, values, marker="x")
    return [line.rstrip() for line in str(figure.show()).split("\n")]


def _label(value: float, chars: int, delta: float, left: bool = False) -> str:
    """Format a label of an axis; plotille defines the arguments."""
    del delta
    text = f"{value:.3g}"
    return text.ljust(chars) if left else text.rjust(chars)


def _picture(
    trials: Sequence[Mapping[str, Any]], count: int, direction: Direction, name: str, path: Path
) -> str:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator
    except ImportError as error:
        raise _missing(error) from error
    numbers, values, best = _best_so_far(trials, direction)
    figure: Any = Figure(figsize=(7, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.step(numbers, best, where="post", label="best so far")
    axes.plot(numbers, values, "x", label="trial")
    axes.set_xlim(0.5, count + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("trial")
    axes.set_ylabel(name)
    axes.grid(visible=True, alpha=0.3)
    axes.legend()
    try:
        with os.fdopen(open_file(path, writing=True), "wb") as opened:
            opened.truncate()
            figure.savefig(opened, dpi=120, format="png")
    except OSError as error:
        raise ValueError(f"the picture {path} cannot be written: {error}") from error
    return str(path)


def _missing(error: ImportError) -> DependencyMissing:
    return DependencyMissing(
        f"drawing trials needs {error.name}, which is not installed",
        hint="`pip install 'fractale[optimize]'`",
    )


def _table_lines(rows: Sequence[Sequence[str]], gap: int = 2) -> list[str]:
    """Format rows as lines; each column is as wide as its longest cell.

    Args:
        rows: The first row is the header; all rows have the same number of cells.
        gap: Spaces between two columns.
    """
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = (
        (" " * gap).join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    )
    return [line.rstrip() for line in lines]
