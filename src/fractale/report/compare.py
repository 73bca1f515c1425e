"""Several runs side by side: what differs between them, and plots of what varied."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, cast

from fractale.durations import clock
from fractale.plain import to_json
from fractale.record.diff import ValueChange, diff_runs
from fractale.record.history import input_values
from fractale.render.diff import changed_lines, has_lines
from fractale.render.phrases import as_json
from fractale.render.summary import NO_BREAKS, STATES, history_verdict
from fractale.render.text import count, fit, inert, when
from fractale.report.costs import hours_text
from fractale.report.plots import Plot, plots_of

if TYPE_CHECKING:
    from fractale.record.history import RunHistory

MOST_CHANGES, MOST_COLUMNS, MOST_PLOTS = 60, 12, 8
MOST_LINES, MOST_OF_LINE = 200, 1000
CELL: Final = 120
CLASSES: Final = {"good": "added", "bad": "removed"}
NOTHING: Final = {"tokens": "0", "cost": "$0.000", "node-hours": "0"}
"""The columns that are left out where no run used any."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunColumn:
    """One run in the table of all.

    Args:
        href: The id of the run on the page; empty if only the table has it.
    """

    run: str
    href: str
    mark: str
    cells: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunDifference:
    """A place where two runs differ.

    Args:
        lines: Of two texts, the lines that differ, each with the class of its mark; else empty.
    """

    place: str
    a: str = ""
    b: str = ""
    lines: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    """Runs that ended for the same reason."""

    words: str
    runs: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunComparison:
    """Several runs.

    Args:
        head: How they belong together, in one sentence.
        columns: Headings of the table.
        differs: For each heading, whether the runs differ there.
        plots: Numbers of the outputs against inputs that vary.
        reasons: Of the runs that did not succeed, grouped.
        differences: Of two runs; empty for more.
    """

    head: str
    columns: tuple[str, ...]
    differs: tuple[bool, ...]
    rows: tuple[RunColumn, ...]
    plots: tuple[Plot, ...]
    reasons: tuple[Reason, ...]
    differences: tuple[RunDifference, ...]
    a: str
    b: str
    note: str = ""


def compare(histories: Sequence[RunHistory], prefixes: Mapping[str, str]) -> RunComparison:
    """What differs between runs.

    Args:
        histories: At least two.
        prefixes: Run → prefix of its ids on the page, for those that have a part of their own.
    """
    inputs = [input_values(history) for history in histories]
    outputs = [cast("dict[str, Any]", history.result.get("outputs") or {}) for history in histories]
    given = [f"inputs.{name}" for name in _varying(inputs)][:MOST_COLUMNS]
    got = [f"outputs.{name}" for name in _varying(outputs)][:MOST_COLUMNS]
    flat = [_flat(one, other) for one, other in zip(inputs, outputs, strict=True)]
    fixed = [_fixed(history) for history in histories]
    used = [n for n in fixed[0] if any(each[n] != NOTHING.get(n) for each in fixed)]
    names = [*used, *given, *got]
    texts = [
        {**own, **{name: _cell(values.get(name)) for name in (*given, *got)}}
        for own, values in zip(fixed, flat, strict=True)
    ]
    both = len(histories) == 2
    return RunComparison(
        head=_head(histories),
        columns=tuple(inert(name, 80) for name in names),
        differs=tuple(len({text[name] for text in texts}) > 1 for name in names),
        rows=tuple(
            RunColumn(
                run=history.run,
                href=f"{prefixes[history.run]}run" if history.run in prefixes else "",
                mark=STATES.get(history.status, ("", "warn"))[1],
                cells=tuple(text[name] for name in names),
            )
            for history, text in zip(histories, texts, strict=True)
        ),
        plots=tuple(_plots(flat, given, got)),
        reasons=tuple(_reasons(histories)),
        differences=tuple(_differences(*histories)) if both else (),
        a=histories[0].run,
        b=histories[1].run if both else "",
    )


def _fixed(history: RunHistory) -> dict[str, str]:
    usage = history.usage
    hours = usage.get("node_hours")
    found = {
        "plan": inert(str(history.head.get("plan") or ""), 80),
        "started": when(history.started),
        "state": STATES.get(history.status, (history.status, "warn"))[0],
        "time": clock(float(usage.get("elapsed") or usage.get("seconds") or 0.0)),
        "attempts": f"{len(history.attempts):,}",
        "tokens": f"{int(usage.get('total_tokens') or 0):,}",
        "cost": f"${float(usage.get('cost') or 0.0):.3f}",
    }
    return {**found, "node-hours": hours_text(float(hours or 0.0)) or "0"}


def _head(histories: Sequence[RunHistory]) -> str:
    names = {history.run for history in histories}
    forks = [
        f"{history.run} was forked from {inert(str(parent.get('run')), 80)} at "
        f"{inert(str(parent.get('step')), 200)}"
        for history in histories
        if (parent := cast("dict[str, Any]", history.head.get("parent") or {}))
        and parent.get("run") in names
    ]
    plans = {str(history.head.get("plan_hash")) for history in histories}
    same = "the same plan" if len(plans) == 1 else f"{len(plans)} different plans"
    words = f"{count(len(histories), 'run')} of {same}"
    return "; ".join([words, *forks[:20]])


def _varying(tables: Sequence[Mapping[str, Any]]) -> list[str]:
    """The names whose values differ between the runs."""
    names = dict.fromkeys(name for each in tables for name in each)
    return [n for n in names if len({to_json(t.get(n), default=str) for t in tables}) > 1]


def _flat(inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **{f"inputs.{name}": value for name, value in inputs.items()},
        **{f"outputs.{name}": value for name, value in outputs.items()},
    }


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.6g}"
    first, _, more = (value if isinstance(value, str) else as_json(value)).strip().partition("\n")
    words = fit(inert(first, 4 * CELL), CELL)
    return f"{words} … {count(len(more.splitlines()) + 1, 'line')}" if more else words


def _plots(
    flat: Sequence[Mapping[str, Any]], given: Sequence[str], got: Sequence[str]
) -> Iterable[Plot]:
    found: list[Plot] = []
    for name in given:
        rows = [{k: row.get(k) for k in (name, *got)} for row in flat]
        found += plots_of(sorted(rows, key=lambda row: _order(row[name])), name)
    return found[:MOST_PLOTS]


def _order(value: Any) -> float:
    return float(value) if isinstance(value, (int, float)) and abs(value) < 1e300 else 0.0


def _reasons(histories: Sequence[RunHistory]) -> Iterable[Reason]:
    groups: dict[str, list[str]] = {}
    for history in histories:
        if history.status != "success":
            words = history_verdict(history, NO_BREAKS).head.replace(history.run, "RUN")
            groups.setdefault(words, []).append(history.run)
    if len(histories) > 2:
        for words, runs in sorted(groups.items(), key=lambda each: -len(each[1])):
            yield Reason(words=words, runs=tuple(runs))


def _differences(a: RunHistory, b: RunHistory) -> Iterable[RunDifference]:
    """The places where two runs differ, those of their heads first."""
    found = diff_runs(a, b)
    command = f"fractale diff {a.run} {b.run}"
    lines = [_difference(f"{each.path}", each, command) for each in found.about]
    for attempt in found.attempts:
        if not attempt.changed:
            continue
        place = inert(attempt.path, 200)
        place += f", attempt {attempt.number}" if attempt.number > 1 else ""
        if attempt.a is None or attempt.b is None:
            lines.append(
                RunDifference(
                    place=place,
                    a=_outcome(attempt.a) if attempt.a else "not reached",
                    b=_outcome(attempt.b) if attempt.b else "not reached",
                )
            )
            continue
        values = [("inputs", each) for each in attempt.inputs]
        values += [("outputs", each) for each in attempt.outputs]
        lines += [
            _difference(f"{place}: {kind} {each.path}".rstrip(), each, command)
            for kind, each in values
        ]
        if "outcome" in attempt.changed:
            lines.append(RunDifference(place=place, a=_outcome(attempt.a), b=_outcome(attempt.b)))
        if not values and "calls" in attempt.changed:
            lines.append(RunDifference(place=place, a="calls differ", b="calls differ"))
    yield from lines[:MOST_CHANGES]
    if more := max(len(lines) - MOST_CHANGES, 0):
        yield RunDifference(place=f"… {count(more, 'more difference')}", a=command)


def _outcome(attempt: Any) -> str:
    words = f"{attempt.outcome or 'not finished'}"
    return inert(f"{words}: {attempt.reason or attempt.error}", 400) if (
        attempt.outcome == "failure"
    ) else words  # fmt: skip


def _is_long(value: Any) -> bool:
    """Whether a cell would only show the beginning of a text."""
    return isinstance(value, str) and len(value) > CELL


def _difference(place: str, change: ValueChange, command: str) -> RunDifference:
    """One place.

    Args:
        command: Shows all lines.
    """
    if has_lines(change) or (_is_long(change.a) and _is_long(change.b)):
        lines = changed_lines(change.a, change.b)
        shown = [(fit(text, MOST_OF_LINE), CLASSES.get(m, m)) for text, m in lines[:MOST_LINES]]
        if more := len(lines) - len(shown):
            shown.append((f"… {count(more, 'more line')}: {command} --full", "dim"))
        return RunDifference(place=inert(place, 300), lines=tuple(shown))
    return RunDifference(
        place=inert(place, 300),
        a="(missing)" if change.missing == "a" else _cell(change.a) or "null",
        b="(missing)" if change.missing == "b" else _cell(change.b) or "null",
    )
