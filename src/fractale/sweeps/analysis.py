"""Results of a sweep: its merit, its failures by reason, its questions by step.

All displays, the report and the exports ask here, so that they agree.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

from fractale.errors import UsageError
from fractale.sweeps.results import RowView, SweepView
from fractale.text import did_you_mean

MOST_COLUMNS: Final = 500
"""The most columns of outputs; with more, an output that is a table is one column of JSON."""
MOST_REASON: Final = 400
"""The characters of a reason by which failures are grouped."""
NOT_FINITE: Final = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
"""How a record writes numbers that JSON lacks, see `fractale.plain`."""

USAGE: Final = ("tokens", "cost", "node_hours", "core_hours", "gpu_hours", "jobs")
"""The parts of `RowView.used`."""

WIDE_SPAN: Final = 1000.0
"""A plot of numbers whose greatest is more than so many times the least has a logarithmic axis."""
SECONDS: Final = "seconds"

_DIGITS = re.compile(r"\d+(?:\.\d+)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Rows that failed for the same reason, or that ask the same.

    Args:
        step: The step that failed or asks; may be empty.
        words: The reason of the first row, as it was recorded.
        alike: Whether all rows have these words; else they differ in numbers only.
        rows: In their order.
        answered: Whether their questions were answered, and their runs not resumed since.
    """

    step: str
    words: str
    rows: tuple[RowView, ...]
    alike: bool = True
    answered: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Merit:
    """The output by which rows are compared.

    Args:
        points: The successful rows with a finite number, in their order, each with the number.
    """

    name: str
    points: tuple[tuple[RowView, float], ...]

    @property
    def least(self) -> tuple[RowView, float]:
        return min(self.points, key=lambda each: each[1])

    @property
    def greatest(self) -> tuple[RowView, float]:
        return max(self.points, key=lambda each: each[1])


def number_of(value: Any) -> float | None:
    """A finite number, or None for anything else, also for true and false."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        found = float(value)
    except OverflowError:  # an integer over 10^308
        return None
    return found if math.isfinite(found) else None


def flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values with those of a table below it as ``table.key``; other values are unchanged."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        parts = list(_flat(str(name), value))
        fits = all(key not in found and (key == name or key not in values) for key, _ in parts)
        found.update(parts if fits else [(str(name), value)])
    return found


def _flat(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for key, inner in cast("Mapping[str, Any]", value).items():
            yield from _flat(f"{name}.{key}", inner)
    else:
        yield name, value


def flat_outputs(view: SweepView) -> tuple[list[dict[str, Any]], list[str]]:
    """The outputs of each row, flat, and their names in the order in which they first appear."""
    rows = [flat(row.outputs) for row in view.rows]
    names = list(dict.fromkeys(name for row in rows for name in row))
    if len(names) > MOST_COLUMNS:
        rows = [dict(row.outputs) for row in view.rows]
        names = list(dict.fromkeys(name for row in rows for name in row))
    return rows, names


def is_numeric(values: Iterable[Any]) -> bool:
    """Whether there are values, and all are numbers. None does not count."""
    there = [value for value in values if value is not None]
    numbers = [number_of(value) is not None or _is_not_finite(value) for value in there]
    return bool(there) and all(numbers)


def _is_not_finite(value: Any) -> bool:
    return isinstance(value, str) and value in NOT_FINITE


def value_of(row: RowView, name: str) -> Any:
    """An output of a row, also of a table in it (``table.key``); else an amount that it used."""
    outputs = flat(row.outputs)
    if name in outputs:
        return outputs[name]
    if name in row.outputs:
        return row.outputs[name]
    return (row.seconds or None) if name == SECONDS else row.used.get(name)


def merit_of(view: SweepView, name: str | None = None) -> Merit | None:
    """The output by which rows are compared.

    It is the one that the caller names, or the sweep's, or the only one that is a number. None if
    there is not exactly one such output, or if no row has one yet. An amount that runs use, such as
    ``node_hours``, or ``seconds`` may be named as well.

    Raises:
        UsageError: No row has an output `name`, although some rows have outputs.
    """
    rows, names = flat_outputs(view)
    chosen = name or view.merit
    if name and names and name not in (*names, *USAGE, SECONDS):
        raise UsageError(
            f"the runs of sweep {view.id} have no output `{name}`",
            hint=did_you_mean(name, names, otherwise=f"outputs: {', '.join(names[:20])}"),
        )
    if not chosen:
        numeric = [each for each in names if is_numeric(row.get(each) for row in rows)]
        if len(numeric) != 1:
            return None
        chosen = numeric[0]
    points = [
        (row, number)
        for row in view.rows
        if row.state == "success" and (number := number_of(value_of(row, chosen))) is not None
    ]
    return Merit(name=chosen, points=tuple(points)) if points else None


def numeric_inputs(view: SweepView) -> list[str]:
    """The inputs that vary and are numbers in each row, at least two different ones."""
    found: list[str] = []
    for name in view.varied:
        numbers = [number_of(row.inputs.get(name)) for row in view.rows]
        if None not in numbers and len(set(numbers)) > 1:
            found.append(name)
    return found


def scaled(name: str, values: Sequence[float]) -> tuple[str, list[float]]:
    """Numbers as a plot shows them: by their logarithm if they span more than `WIDE_SPAN`."""
    if values and min(values) > 0 and max(values) > WIDE_SPAN * min(values):
        return f"log10 {name}", [math.log10(value) for value in values]
    return name, [*values]


def failures(view: SweepView) -> list[Group]:
    """The failed rows by step and reason, the largest group first.

    Reasons that differ only in numbers, such as those of jobs and times, are the same reason.
    """
    groups: dict[tuple[str, str], list[RowView]] = {}
    for row in view.rows:
        if row.state == "failed":
            words = _reason(row)[:MOST_REASON]
            groups.setdefault((row.failed_at, _DIGITS.sub("0", words)), []).append(row)
    found = [
        Group(
            step=step,
            words=_reason(rows[0]),
            rows=tuple(rows),
            alike=len({_reason(row) for row in rows}) == 1,
        )
        for (step, _), rows in groups.items()
    ]
    return sorted(found, key=lambda group: -len(group.rows))


def _reason(row: RowView) -> str:
    """Why a row failed, without its own ID, by which equal reasons would differ."""
    words = " ".join((row.error or "").split())
    return words.replace(row.run, "RUN") if row.run else words


def questions(view: SweepView) -> list[Group]:
    """The waiting rows by the steps that ask, the largest group first.

    Rows that wait for a job or a time have no step.
    """
    groups: dict[tuple[tuple[str, ...], bool], list[RowView]] = {}
    for row in view.rows:
        if row.state == "waiting":
            groups.setdefault((row.asks, row.answered), []).append(row)
    found = [
        Group(step=", ".join(steps), words="", rows=tuple(rows), answered=answered)
        for (steps, answered), rows in groups.items()
    ]
    return sorted(found, key=lambda group: -len(group.rows))


def row_ranges(rows: Sequence[RowView], most: int = 8) -> str:
    """The numbers of rows: ``0-3, 7, 9 and 12 more``.

    Args:
        most: The most numbers and ranges.
    """
    ranges: list[list[int]] = []
    for row in rows:
        if ranges and row.row == ranges[-1][1] + 1:
            ranges[-1][1] = row.row
        else:
            ranges.append([row.row, row.row])
    texts = [f"{a}" if a == b else f"{a}-{b}" for a, b in ranges[:most]]
    left = sum(b - a + 1 for a, b in ranges[most:])
    return ", ".join(texts) + (f" and {left:,} more" if left else "")


def as_data(view: SweepView, merit: Merit | None, rows: Sequence[RowView]) -> dict[str, Any]:
    """The sweep as JSON.

    Args:
        rows: The rows to include.
    """
    from dataclasses import asdict

    data = asdict(view)
    data["limits"] = [{**asdict(limit), "left": limit.left} for limit in view.limits]
    data["rows"] = [asdict(row) for row in rows]
    data["all_rows"] = len(view.rows)
    data["merit"] = merit.name if merit else view.merit
    data["failures"] = [_group_data(group) for group in failures(view)]
    data["questions"] = [_group_data(group) for group in questions(view)]
    return data


def _group_data(group: Group) -> dict[str, Any]:
    rows = [row.row for row in group.rows]
    return {"step": group.step, "reason": group.words, "answered": group.answered, "rows": rows}
