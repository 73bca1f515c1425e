"""A sweep as a page: verdict, counts, limits, groups of failures and questions, rows, plots, plan.

`sweep_report` makes one HTML file of it, and `fractale web` prints the same parts live.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from fractale.masking import Masker
from fractale.plan.picture import PAGE_STYLE
from fractale.render.sweep import (
    ROW_STATES,
    group_words,
    hours_cell,
    limit_text,
    seconds_of,
    sweep_verdict,
    total_of,
)
from fractale.render.text import clock, count, exactly, fit, inert, shorten_path, table_cell
from fractale.report.environment import asset, environment
from fractale.report.plots import Plot, plot
from fractale.report.texts import WHOLE, Shown, entries_of, shown
from fractale.report.write import policy
from fractale.sweeps.analysis import (
    Group,
    Merit,
    failures,
    flat_outputs,
    is_numeric,
    merit_of,
    number_of,
    numeric_inputs,
    questions,
    row_ranges,
    scaled,
    value_of,
)
from fractale.version import __version__

if TYPE_CHECKING:
    from fractale.sweeps.record import SweepRecord
    from fractale.sweeps.results import RowView, SweepView

MOST_ROWS: Final = 2_000
"""The most rows of the table of one file; the export has all."""
MOST_PLOTS: Final = 8
LEAST_POINTS: Final = 2
MOST_OUTPUTS: Final = 12
"""The most outputs with a column of their own."""
MOST_CELL: Final = 120
BAR_WIDTH, BAR_HEIGHT = 600.0, 18.0
BARS: Final = {"success": "success", "failed": "failure", "running": "running", "pending": "wait"}
"""State of rows → the class of its part of the bar; other states have `waiting`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """The rows in one state, as a part of a bar.

    Args:
        x: Where the part begins, and `width` how wide it is.
    """

    words: str
    kind: str
    x: float
    width: float


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupView:
    """Rows that failed for the same reason, or that ask the same."""

    number: int
    words: str
    rows: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepRow:
    """A row of the table.

    Args:
        run: Its run; empty if none has started.
    """

    number: int
    run: str
    mark: str
    cells: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepPage:
    """Everything that a sweep's page shows.

    The names of the verdict's parts are those of `page.RunPage`, so that one macro prints both.

    Args:
        limits: Name → used, reserved, left.
        numeric: For each column, whether it has numbers.
        note: Which rows were left out, and where they are.
        best: The least and the greatest merit.
    """

    sweep: str
    title: str
    prefix: str
    state: str
    word: str
    mark: str
    joint: str
    why: str
    reasons: tuple[tuple[str, tuple[str, ...]], ...]
    used: str
    next: tuple[str, ...]
    now: tuple[tuple[str, str], ...]
    shares: tuple[Share, ...]
    bar: tuple[float, float]
    limits: tuple[tuple[str, str], ...]
    failures: tuple[GroupView, ...]
    questions: tuple[GroupView, ...]
    columns: tuple[str, ...]
    numeric: tuple[bool, ...]
    rows: tuple[SweepRow, ...]
    note: str
    best: tuple[tuple[str, str], ...]
    plots: tuple[Plot, ...]
    about: tuple[tuple[str, str], ...]
    inputs: tuple[Shown, ...]
    plan_text: Shown | None


def sweep_page(
    view: SweepView,
    record: SweepRecord,
    mask: Masker | None = None,
    *,
    rows: Sequence[RowView] | None = None,
) -> SweepPage:
    """A sweep's page.

    Args:
        mask: Masks secrets in the plan; the rest of a record has none.
        rows: Those of the table; None: all, at most `MOST_ROWS`.

    Raises:
        StoreError: The record cannot be read.
    """
    verdict = sweep_verdict(view)
    merit = merit_of(view)
    head = record.read_head()
    columns, numeric, table = _table(view, merit, view.rows[:MOST_ROWS] if rows is None else rows)
    left = len(view.rows) - len(table) if rows is None else 0
    return SweepPage(
        sweep=view.id,
        title=inert(view.plan, 200),
        prefix="",
        state=view.status,
        word=verdict.words,
        mark=verdict.mark,
        joint=verdict.joint,
        why=verdict.why,
        reasons=tuple(
            (row.label, row.lines) for row in verdict.rows if row.about in ("why", "notice")
        ),
        used=next((row.lines[0] for row in verdict.rows if row.label == "used"), ""),
        next=tuple(inert(each) for each in view.next),
        now=(),
        shares=tuple(_shares(view)),
        bar=(BAR_WIDTH, BAR_HEIGHT),
        limits=tuple((inert(each.name, 40), limit_text(each)) for each in view.limits),
        failures=tuple(_groups(failures(view), "failed")),
        questions=tuple(_groups(questions(view), "waiting")),
        columns=columns,
        numeric=numeric,
        rows=table,
        note=f"The first {len(table):,} of {count(len(view.rows), 'row')}; "
        f"`fractale sweep export {view.id}` has all."
        if left
        else "",
        best=tuple(_best(merit)),
        plots=tuple(_plots(view, merit)),
        about=tuple(_about(view, record, head)),
        inputs=entries_of(head.get("inputs") or {}, WHOLE, f"sweep {view.id}"),
        plan_text=_plan_text(record, mask or Masker()),
    )


def _shares(view: SweepView) -> Iterable[Share]:
    total, x = total_of(view), 0.0
    for state, (words, _) in ROW_STATES.items():
        if number := view.counts.get(state, 0):
            width = round(BAR_WIDTH * number / total, 1)
            kind = BARS.get(state, "waiting")
            yield Share(words=f"{number:,} {words}", kind=kind, x=round(x, 1), width=width)
            x += width


def _groups(groups: Sequence[Group], title: str) -> Iterable[GroupView]:
    for group in groups:
        yield GroupView(
            number=len(group.rows),
            words=group_words(group, title),
            rows=row_ranges(group.rows, 20),
        )


def _table(
    view: SweepView, merit: Merit | None, shown_rows: Sequence[RowView]
) -> tuple[tuple[str, ...], tuple[bool, ...], tuple[SweepRow, ...]]:
    """The headings, whether each column has numbers, and the rows."""
    outputs, names = flat_outputs(view)
    if merit and merit.name in names:
        names = [merit.name, *(name for name in names if name != merit.name)]
    names = names[:MOST_OUTPUTS]
    used = [(key, head) for key, head in USED if any(row.used.get(key) for row in view.rows)]
    columns: list[tuple[str, bool]] = [("state", False)]
    columns += [(name, is_numeric(r.inputs.get(name) for r in view.rows)) for name in view.varied]
    columns += [(name, is_numeric(each.get(name) for each in outputs)) for name in names]
    columns += [(head, True) for _, head in used]
    columns += [("time", True), ("reason", False)]
    rows = tuple(
        SweepRow(
            number=row.row,
            run=row.run,
            mark=ROW_STATES.get(row.state, ("", "warn"))[1],
            cells=(
                ROW_STATES.get(row.state, (inert(row.state), ""))[0],
                *(_cell(row.inputs.get(name)) for name in view.varied),
                *(_cell(outputs[row.row].get(name)) for name in names),
                *(_used_cell(key, row.used.get(key, 0.0)) for key, _ in used),
                clock(row.seconds) if row.seconds else "",
                _why(row),
            ),
        )
        for row in shown_rows
    )
    return tuple(inert(name, 60) for name, _ in columns), tuple(n for _, n in columns), rows


USED: Final = (("node_hours", "node-hours"), ("tokens", "tokens"), ("cost", "cost"))


def _used_cell(key: str, value: float) -> str:
    if key == "node_hours":
        return hours_cell(value)
    return f"${value:.3f}" if key == "cost" else f"{int(value):,}"


def _cell(value: Any) -> str:
    return "" if value is None else fit(table_cell(value), MOST_CELL)


def _why(row: RowView) -> str:
    at = f"{inert(row.failed_at, 60)}: " if row.failed_at else ""
    if row.error or at:
        return at + inert(row.error or "", 300)
    return f"asks at {inert(', '.join(row.asks), 200)}" if row.asks else ""


def _best(merit: Merit | None) -> Iterable[tuple[str, str]]:
    if merit is None:
        return
    for words, (row, value) in (("least", merit.least), ("greatest", merit.greatest)):
        given = ", ".join(f"{inert(k, 30)}={_cell(v)}" for k, v in row.inputs.items())
        yield (
            f"{words} {inert(merit.name, 40)}",
            f"{value:.6g} at row {row.row} ({fit(given, 300)})",
        )


def _plots(view: SweepView, merit: Merit | None) -> Iterable[Plot]:
    """The merit, or each numeric output, against each input that varies and is a number."""
    outputs, names = flat_outputs(view)
    wanted = [merit.name] if merit else []
    wanted = wanted or [n for n in names if is_numeric(each.get(n) for each in outputs)]
    found: list[Plot] = []
    for x_name in numeric_inputs(view):
        for name in wanted:
            pairs = [
                (x, y)
                for row in view.rows
                if row.state == "success"
                and (x := number_of(row.inputs.get(x_name))) is not None
                and (y := number_of(value_of(row, name))) is not None
            ]
            if len(pairs) >= LEAST_POINTS:
                x_words, xs = scaled(x_name, [x for x, _ in pairs])
                words, ys = scaled(name, [y for _, y in pairs])
                points = sorted(zip(xs, ys, strict=True))
                found.append(plot(words, x_words, points, joined=False))
    return found[:MOST_PLOTS]


def _about(
    view: SweepView, record: SweepRecord, head: Mapping[str, Any]
) -> Iterable[tuple[str, str]]:
    yield "plan", f"{inert(view.plan, 200)}, {inert(shorten_path(view.file), 1000)}"
    if file := head.get("sweep_file"):
        yield "sweep file", inert(shorten_path(str(file)), 1000)
    if table := head.get("table"):
        yield "table", inert(shorten_path(str(table)), 1000)
    if sample := head.get("sample"):
        yield "sample", f"{inert(str(sample), 40)} rows, seed {inert(str(head.get('seed')), 40)}"
    yield "rows", f"{total_of(view):,}, with {count(len(view.varied), 'input')} that vary"
    yield "executor", inert(view.executor, 80)
    yield "started", exactly(view.started)
    if view.ended:
        yield "ended", f"{exactly(view.ended)}, after {clock(seconds_of(view))}"
    yield "plan hash", inert(view.plan_hash, 100)
    yield "record", inert(shorten_path(str(record.path)), 1000)


def _plan_text(record: SweepRecord, mask: Masker) -> Shown | None:
    try:
        text = record.plan.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    return shown("", mask.text(text), WHOLE, inert(shorten_path(str(record.plan)), 400))


def sweep_report(view: SweepView, record: SweepRecord, mask: Masker | None = None) -> str:
    """The report of a sweep as HTML.

    Raises:
        StoreError: The record cannot be read.
    """
    style, script = asset("style.css") + PAGE_STYLE, asset("script.js")
    page = sweep_page(view, record, mask)
    return (
        environment()
        .get_template("sweep_report.html")
        .render(
            page=page,
            title=f"{page.title} · sweep {page.sweep}",
            style=style,
            script=script,
            policy=policy(style, script),
            version=__version__,
            written=exactly(time.time()),
            zone=time.strftime("%Z"),
        )
    )
