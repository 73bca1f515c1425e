"""A sweep for people: its verdict, its rows, its groups of failures and questions, its plots.

`sweep_verdict` has the words as data, for a terminal, the report and the web page.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from fractale.render.run_list import hours_cell
from fractale.render.summary import (
    STATES,
    Verdict,
    VerdictRow,
    usage_text,
    value_text,
)
from fractale.render.text import (
    Line,
    Mark,
    cells,
    clock,
    count,
    fit,
    inert,
    pad,
    row,
    table_cell,
    when,
)
from fractale.sweeps.analysis import (
    Group,
    Merit,
    failures,
    number_of,
    numeric_inputs,
    questions,
    row_ranges,
    scaled,
    value_of,
)

if TYPE_CHECKING:
    from fractale.sweeps.results import LimitView, RowView, SweepView

WIDTH: Final = 80
BAR_CELLS: Final = 8
SHOWN_ROWS: Final = 20
"""The most rows of a first screen."""
SHOWN_GROUPS: Final = 5
"""The most groups of failures, and of questions, of a first screen."""
SHOWN_VALUES: Final = 12
"""The most values of an input that is not a number, for which the merit is summed up."""
LEAST_POINTS, MOST_PLOTS = 2, 3
PLOT_WIDTH, PLOT_HEIGHT = 48, 10
MOST_LABEL: Final = 12
EMPTY_BRAILLE: Final = "\u2800"
MOST_CELL: Final = 24
MOST_REASON: Final = 300

ROW_STATES: dict[str, tuple[str, Mark]] = {
    "success": STATES["success"],
    "failed": STATES["failed"],
    "waiting": STATES["waiting"],
    "limit": ("at a limit", "warn"),
    "stopped": STATES["stopped"],
    "running": STATES["running"],
    "pending": ("pending", "dim"),
}
"""The state of a row: how it is named, and its mark; in the order of `counts_text`."""
SWEEP_STATES: dict[str, tuple[str, Mark]] = {
    **STATES,
    "queued": ("queued", "warn"),
    "unreadable": ("unreadable", "bad"),
}


def done_of(view: SweepView) -> int:
    """How many rows are over: successful or failed."""
    return view.counts.get("success", 0) + view.counts.get("failed", 0)


def total_of(view: SweepView) -> int:
    """How many rows there are, also of a view without them."""
    return sum(view.counts.values())


def bar(done: int, total: int, width: int = BAR_CELLS) -> str:
    """How much is over, as a bar of blocks: full only if all is over, empty only if nothing is."""
    full = width * done // total if total else 0
    if done and not full:
        full = 1
    return "▓" * full + "░" * (width - full)


def counts_text(counts: Mapping[str, int]) -> str:
    """The number of rows in each state: ``58 success · 3 failed · 35 pending``."""
    return " · ".join(
        f"{counts[state]:,} {words}"
        for state, (words, _) in ROW_STATES.items()
        if counts.get(state)
    )


def seconds_of(view: SweepView) -> float:
    """How long the sweep has lasted, or lasts."""
    return max(0.0, (view.ended or time.time()) - view.started) if view.started else 0.0


def limit_text(limit: LimitView) -> str:
    """A limit with the rest that it allows: ``9.8 used · 1.2 reserved · 29 of 40 left``."""
    parts = [f"{_amount(limit.name, limit.used)} used"]
    if limit.reserved:
        parts.append(f"{_amount(limit.name, limit.reserved)} reserved")
    left, whole = _amount(limit.name, limit.left), _amount(limit.name, limit.limit)
    return " · ".join([*parts, f"{left} of {whole} left"])


def _amount(name: str, value: float) -> str:
    if name == "cost":
        return f"${value:,.3f}"
    if name == "time":
        return clock(value)
    return f"{int(value):,}" if float(value).is_integer() else f"{value:,.4g}"


def used_text(used: Mapping[str, float]) -> str:
    """What runs have used: ``4,310 tokens · $0.011 · 9.8 node-hours``; empty for nothing."""
    return usage_text({**used, "total_tokens": used.get("tokens", 0)})


def why(view: SweepView) -> str:
    """The second half of the verdict's line."""
    total = total_of(view)
    if not total:
        return ""
    done = f"{done_of(view):,} of {count(total, 'row')} done"
    if view.status == "success":
        return f"all {count(total, 'row')}" if total != 1 else "its only row"
    if view.status == "failed":
        return f"{view.counts.get('failed', 0):,} of {count(total, 'row')} failed"
    if view.status == "waiting":
        return f"{view.counts.get('waiting', 0):,} of {count(total, 'row')} wait"
    if view.status == "limit":
        name = f"`{inert(view.reached, 40)}` of the sweep · " if view.reached else ""
        return name + done
    if view.status == "queued":
        return "its driver has not begun"
    return done


def sweep_verdict(view: SweepView) -> Verdict:
    """What people read first about a sweep."""
    words, mark = SWEEP_STATES.get(view.status, (inert(view.status), "warn"))
    rows: list[VerdictRow] = []
    if view.reason:
        rows.append(VerdictRow("reason", (inert(view.reason, MOST_REASON),), "why"))
    counts = f"{bar(done_of(view), total_of(view))}  {counts_text(view.counts)}"
    if total_of(view):
        rows.append(VerdictRow("rows", (counts.rstrip(),), "used"))
    rows += [VerdictRow(inert(each.name, 20), (limit_text(each),), "used") for each in view.limits]
    if used := used_text(view.used):
        rows.append(VerdictRow("used", (used,), "used"))
    if view.warning:
        rows.append(VerdictRow("warning", (inert(view.warning, MOST_REASON),), "notice"))
    if lost := sum(each.losses for each in view.rows):
        text = f"{count(lost, 'worker')} lost with a run, which was resumed or has failed"
        rows.append(VerdictRow("lost", (text,), "notice"))
    return Verdict(words, mark, why(view), tuple(rows))


def sweep_lines(
    view: SweepView,
    *,
    merit: Merit | None,
    limit: int | None = SHOWN_ROWS,
    only_failed: bool = False,
    width: int | None = None,
    unicode: bool = True,
) -> list[Line]:
    """A sweep on a terminal: verdict, groups, rows, merit, and what to type next.

    Args:
        limit: The most rows; None for all.
        only_failed: Only the failed rows.
        width: The terminal's columns; None without a terminal.
        unicode: Whether the stream can show plots.
    """
    name = inert(view.plan, 60)
    about = [f"sweep {view.id}", name, inert(view.executor, 30), f"started {when(view.started)}"]
    if lasted := seconds_of(view):
        about.append(clock(lasted))
    verdict = sweep_verdict(view)
    lines = [row(" · ".join(filter(None, about)), "dim"), *verdict.lines()]
    lines += group_lines("failed", failures(view), width)
    if not only_failed:
        lines += group_lines("waiting", questions(view), width)
    shown = [each for each in view.rows if each.state == "failed"] if only_failed else view.rows
    lines += [row(""), *row_lines(view, shown, merit=merit, limit=limit, width=width)]
    if merit and not only_failed:
        lines += [row(""), *merit_lines(view, merit, unicode=unicode)]
    commands = _commands(view)
    if only_failed and shown:  # the user asked for exactly this list
        show = f"fractale sweep show {view.id}"
        one = {f"{show} --failed": f"{show} {shown[0].row}"}
        commands = [one.get(each, each) for each in commands]
    return [*lines, row(""), *next_lines(commands)]


def end_lines(view: SweepView, merit: Merit | None, *, width: int | None = None) -> list[Line]:
    """The end of a sweep that was watched: all but the table of rows and the plots."""
    lines = sweep_verdict(view).lines()
    lines += group_lines("failed", failures(view), width)
    lines += group_lines("waiting", questions(view), width)
    if merit:
        lines += [row(""), *_extremes(merit)]
    commands = [f"fractale sweep show {view.id}", *_commands(view)]
    return [*lines, row(""), *next_lines(dict.fromkeys(commands))]


def _commands(view: SweepView) -> list[str]:
    """What to type next, without the command that shows the sweep."""
    own = f"fractale sweep show {view.id}"
    return [each for each in view.next if each != own] or [
        f"fractale sweep export {view.id} -o {view.id}.csv",
        f"fractale report {view.id}",
    ]


def next_lines(commands: Iterable[str]) -> list[Line]:
    """The commands to type next, each on its own line."""
    return [row(f"{'next:' if i == 0 else '':5} {inert(each)}") for i, each in enumerate(commands)]


def group_lines(title: str, groups: Sequence[Group], width: int | None) -> list[Line]:
    """Failures by reason, or questions by step: how many rows, why, and which rows."""
    if not groups:
        return []
    lines = [row(""), row(f"{title}:")]
    widest = len(f"{len(groups[0].rows):,}")
    for group in groups[:SHOWN_GROUPS]:
        head = f"  {len(group.rows):>{widest},}  "
        text = group_words(group, title)
        lines.append(row(fit(head + text, width or WIDTH * 2)))
        rows = "row" if len(group.rows) == 1 else "rows"
        lines.append(row(f"{' ' * len(head)}{rows} {row_ranges(group.rows)}", "dim"))
    if left := len(groups) - SHOWN_GROUPS:
        more = sum(len(group.rows) for group in groups[SHOWN_GROUPS:])
        if left > 0:
            kind = "reason" if title == "failed" else "group"
            lines.append(row(f"  {count(left, f'more {kind}')} of {count(more, 'row')}", "dim"))
    return lines


def group_words(group: Group, title: str) -> str:
    """The reason of a group in one line."""
    step = f"`{inert(group.step, 60)}`" if group.step else ""
    if title == "failed":
        words = inert(group.words, MOST_REASON) or "no reason is recorded"
        like = "" if group.alike else " (numbers differ)"
        return f"{step}: {words}{like}" if step else words + like
    if group.answered:
        return "answered, not resumed"
    return f"asks at {step}" if step else "waits for a batch job or a time"


# -- rows


def row_lines(
    view: SweepView,
    rows: Sequence[RowView],
    *,
    merit: Merit | None,
    limit: int | None,
    width: int | None,
) -> list[Line]:
    """The table of rows: the inputs that vary, the state, the merit, what the run used."""
    if not rows:
        return [row("no rows", "dim")]
    shown = rows if limit is None else rows[:limit]
    columns = _columns(view, shown, merit)
    room = width or WIDTH
    columns = _fitting(columns, room)
    widths = [max(map(cells, texts)) for _, texts, _ in columns]

    def line_of(n: int) -> list[str]:
        return [
            texts[n].rjust(wide) if right else pad(texts[n], wide)
            for (_, texts, right), wide in zip(columns, widths, strict=True)
        ]

    lines = [row("  ".join(line_of(0)).rstrip(), "dim")]
    at = next(i for i, (key, _, _) in enumerate(columns) if key == "state")
    for n, each in enumerate(shown, 1):
        parts = line_of(n)
        before, after = "  ".join([*parts[:at], ""]), "  ".join(["", *parts[at + 1 :]])
        mark = ROW_STATES.get(each.state, ("", ""))[1]
        lines.append([(before, ""), (parts[at], mark), (after, "")])
    if left := len(rows) - len(shown):
        first = f"the first {len(shown):,} of {count(len(rows), 'row')}"
        lines.append(row(f"{first}; --limit 0 shows all" if left else "", "dim"))
    return lines


Column = tuple[str, list[str], bool]
"""A key, the heading and the cells of the rows, and whether they are aligned to the right."""


def _columns(view: SweepView, rows: Sequence[RowView], merit: Merit | None) -> list[Column]:
    columns: list[Column] = [
        ("row", ["ROW", *(str(each.row) for each in rows)], True),
        (
            "state",
            ["STATE", *(ROW_STATES.get(each.state, (inert(each.state), ""))[0] for each in rows)],
            False,
        ),
    ]
    for name in view.varied:
        values = [each.inputs.get(name) for each in rows]
        numeric = all(number_of(value) is not None for value in values)
        texts = [fit(table_cell(value), MOST_CELL) for value in values]
        columns.append(("input", [fit(inert(name), MOST_CELL), *texts], numeric))
    if merit:
        texts = [_cell(value_of(each, merit.name)) for each in rows]
        columns.append(("merit", [fit(inert(merit.name), MOST_CELL), *texts], True))
    for key, heading, texts in (
        ("node_hours", "NODE-H", [hours_cell(each.used.get("node_hours", 0.0)) for each in rows]),
        ("tokens", "TOKENS", [_whole(each.used.get("tokens", 0)) for each in rows]),
        ("cost", "COST", [_dollars(each.used.get("cost", 0.0)) for each in rows]),
        ("seconds", "TIME", [clock(each.seconds) if each.seconds else "" for each in rows]),
    ):
        if any(texts) and not (merit and merit.name == key):
            columns.append((key, [heading, *texts], True))
    if any(each.run for each in rows):
        columns.append(("run", ["RUN", *(each.run for each in rows)], False))
    return columns


SPARE: Final = ("run", "cost", "tokens", "node_hours", "seconds", "input")
"""The columns that are left out if the screen has no space for them, in this order. Of the inputs,
the last ones are left out."""


def _fitting(columns: list[Column], room: int) -> list[Column]:
    def width(some: Sequence[Column]) -> int:
        return sum(max(map(cells, texts)) + 2 for _, texts, _ in some) - 2

    left_out = 0
    for key in SPARE:
        while width(columns) + (12 if left_out else 0) > room:
            at = next((i for i in reversed(range(len(columns))) if columns[i][0] == key), None)
            if at is None:
                break
            left_out += key == "input"
            columns = columns[:at] + columns[at + 1 :]
    if left_out:
        texts = [f"(+{count(left_out, 'input')})", *("" for _ in columns[0][1][1:])]
        columns = [*columns, ("more", texts, False)]
    return columns


def _cell(value: Any) -> str:
    return "" if value is None else fit(table_cell(value), MOST_CELL)


def _whole(value: float) -> str:
    return f"{int(value):,}" if value else ""


def _dollars(value: float) -> str:
    return f"${value:.3f}" if value else ""


# -- merit


def merit_lines(view: SweepView, merit: Merit, *, unicode: bool) -> list[Line]:
    """The least and the greatest value of the merit, and a plot against each input that varies."""
    lines = _extremes(merit)
    numeric = numeric_inputs(view)
    for other in view.varied:
        if other not in numeric:
            lines += _by_value(merit, other)
    numeric = [name for name in numeric if _differing(merit, name) >= LEAST_POINTS]
    plotted = numeric[:MOST_PLOTS]
    if not plotted:
        return lines
    if not unicode:
        return [*lines, row("  plots need a terminal that shows Unicode", "dim")]
    for other in plotted:
        plot = plot_lines(merit, other)
        if plot is None:
            hint = "plots need plotille: pip install 'fractale[optimize]'"
            return [*lines, row(f"  {hint}; `fractale report {view.id}` has them, too", "dim")]
        lines += [row(""), *plot]
    if more := numeric[MOST_PLOTS:]:
        lines.append(row(f"  not plotted: {', '.join(inert(each, 40) for each in more)}", "dim"))
    return lines


def _differing(merit: Merit, name: str) -> int:
    """How many different values an input has in the rows with a merit."""
    return len({number_of(each.inputs.get(name)) for each, _ in merit.points})


def _extremes(merit: Merit) -> list[Line]:
    lines = [row(f"{inert(merit.name, 40)} of {count(len(merit.points), 'row')}:")]
    for words, (each, value) in (("least", merit.least), ("greatest", merit.greatest)):
        at = f"at row {each.row} ({inputs_text(each.inputs)})"
        lines.append(row(f"  {words:8}  {value:.6g} {at}"))
    return lines


def inputs_text(inputs: Mapping[str, Any], width: int = 100) -> str:
    """The inputs of a row: ``x=1, y=2``."""
    return fit(", ".join(f"{inert(k, 30)}={_cell(v)}" for k, v in inputs.items()), width)


def _by_value(merit: Merit, name: str) -> list[Line]:
    """The range of the merit for each value of an input that is not a number."""
    values: dict[str, list[float]] = {}
    for each, value in merit.points:
        values.setdefault(_cell(each.inputs.get(name)), []).append(value)
    if not 1 < len(values) <= SHOWN_VALUES:
        return []
    widest = max(map(cells, values))
    lines = [row(f"  by {inert(name, 40)}:")]
    for text, found in values.items():
        low, high = f"{min(found):.6g}", f"{max(found):.6g}"
        span = low if low == high else f"{low} to {high}"
        lines.append(row(f"    {pad(text, widest)}  {span}  ({count(len(found), 'row')})"))
    return lines


def plot_lines(merit: Merit, name: str) -> list[Line] | None:
    """The merit against a number; None if plotille is not installed."""
    try:
        import plotille
    except ImportError:
        return None
    pairs = [
        (x, y) for each, y in merit.points if (x := number_of(each.inputs.get(name))) is not None
    ]
    x_name, xs = scaled(inert(name), [x for x, _ in pairs])
    y_name, ys = scaled(inert(merit.name), [y for _, y in pairs])
    figure: Any = plotille.Figure()
    figure.width, figure.height = PLOT_WIDTH, PLOT_HEIGHT
    figure.with_colors, figure.origin = False, False
    figure.x_label, figure.y_label = fit(x_name, MOST_LABEL), fit(y_name, 8)
    for set_limits, values in (
        (figure.set_x_limits, xs),
        (figure.set_y_limits, ys),
    ):
        least, most = min(values), max(values)
        room = (most - least) * 0.05 or abs(least) * 0.05 or 1.0
        set_limits(min_=least - room, max_=most + room)
    figure.register_label_formatter(float, _axis_label)
    figure.register_label_formatter(int, _axis_label)
    figure.scatter(xs, ys)
    text = str(figure.show()).replace(EMPTY_BRAILLE, " ")
    title = f"  {fit(y_name, 40)} against {fit(x_name, 40)}"
    return [row(title), *(row(line.rstrip()) for line in text.split("\n"))]


def _axis_label(value: float, chars: int, delta: float, left: bool = False) -> str:
    """Format a label of an axis; plotille defines the arguments."""
    del delta
    text = f"{value:.3g}"
    return text.ljust(chars) if left else text.rjust(chars)


# -- one row, and a sweep in one line


def one_row_lines(view: SweepView, each: RowView) -> list[Line]:
    """Everything about one row."""
    words, mark = ROW_STATES.get(each.state, (inert(each.state), ""))
    of = f" · row {each.row} of sweep {view.id}"
    lines: list[Line] = [[(words, mark), (of, "")]]
    fields: list[tuple[str, Iterable[str]]] = []
    if each.run:
        again = f", attempt {each.attempt}" if each.attempt > 1 else ""
        fields.append(("run", [f"{each.run}{again}"]))
    if each.error or each.failed_at:
        at = f"`{inert(each.failed_at, 60)}`: " if each.failed_at else ""
        fields.append(("reason", [at + inert(each.error or "no reason is recorded", 1000)]))
    if each.asks:
        fields.append(("asks at", [f"`{inert(step, 60)}`" for step in each.asks]))
    if each.losses:
        fields.append(("lost", [count(each.losses, "worker")]))
    fields += [(inert(name, 40), value_text(value)) for name, value in each.inputs.items()]
    fields += [(inert(name, 40), value_text(value)) for name, value in each.outputs.items()]
    used = " · ".join(
        filter(None, (clock(each.seconds) if each.seconds else "", used_text(each.used)))
    )
    if used:
        fields.append(("used", [used]))
    widest = max([cells(label) for label, _ in fields] + [0])
    for label, texts in fields:
        for i, text in enumerate(texts):
            lines.append(row(f"  {pad(label if i == 0 else '', widest)}  {text}"))
    return [*lines, *([row(""), *next_lines(row_commands(view, each))] if each.run else [])]


def row_commands(view: SweepView, each: RowView) -> list[str]:
    """What to type about one row."""
    commands = [f"fractale show {each.run}"] if each.run else []
    if each.state == "failed":
        commands.append(f"fractale sweep retry {view.id} --row {each.row}")
    if each.state == "waiting" and each.asks:
        commands.append(f"fractale sweep answer {view.id}")
    return commands


def live_line(view: SweepView) -> str:
    """A sweep in progress in one line: the bar, the counts, what was used, the time."""
    parts = [
        f"{bar(done_of(view), total_of(view))} {done_of(view):,}/{total_of(view):,}",
        counts_text(view.counts),
        used_text(view.used),
        clock(seconds_of(view)),
    ]
    return " · ".join(filter(None, parts))


def ended_line(view: SweepView, each: RowView, merit_name: str | None) -> Line:
    """A row that has ended, or waits, in one line."""
    words, mark = ROW_STATES.get(each.state, (inert(each.state), ""))
    rest = [inputs_text(each.inputs, 60)]
    if each.state == "failed":
        at = f"`{inert(each.failed_at, 40)}`: " if each.failed_at else ""
        rest.append(at + inert(each.error or "", 160))
    elif each.answered:
        rest.append("answered, not resumed")
    elif each.asks:
        rest.append("asks at " + ", ".join(f"`{inert(step, 40)}`" for step in each.asks))
    elif merit_name:
        value = value_of(each, merit_name)
        rest += [f"{inert(merit_name, 30)}={_cell(value)}"] if value is not None else []
    if each.seconds:
        rest.append(clock(each.seconds))
    total = f"{len(view.rows) - 1}"
    head = f"row {each.row:>{len(total)}}  "
    return [(head, ""), (f"{words:10}", mark), ("  " + "  ".join(filter(None, rest)), "")]
