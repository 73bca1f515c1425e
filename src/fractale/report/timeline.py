"""The timeline of a run: one lane per step of the plan, with its attempts, calls, waits and jobs.

A time in which the run only waited is drawn short, with its duration beside it, so that what was
computed stays visible in a run that waited for a night. Coordinates are in pixels of the drawing.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias
from urllib.parse import quote

from fractale.durations import clock, in_words
from fractale.plan.paths import without_indexes
from fractale.record.history import state_of
from fractale.render.phrases import ordinal
from fractale.render.text import count, exactly, fit, inert

if TYPE_CHECKING:
    from fractale.record.history import RecordedAttempt, RecordedJob, RunHistory

Span: TypeAlias = tuple[float, float]
"""Two Unix times in seconds."""

NAMES, AREA, RIGHT = 190.0, 720.0, 14.0
TOP, ROW, GAP = 26.0, 14.0, 8.0
MOST_LANES: Final = 300
MOST_ROWS: Final = 6
"""The most rows of a lane; what overlaps further shares the last one."""
MOST_BARS: Final = 4000
SHORT: Final = 0.06
"""The width of a long wait, as a part of the whole."""
LONG: Final = 0.12
"""A wait is drawn short from this part of the rest of the run on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TimelineBar:
    """One bar.

    Args:
        kind: ``success``, ``failure``, ``skipped``, ``running``, ``waiting``, ``stopped``;
            ``wait`` (for an answer or a time), ``queue`` (of a job), ``job``, ``tool``,
            ``model``, ``item``.
        href: The id of what it is about; empty if it has no entry on the page.
        again: Whether it is a later attempt.
    """

    x: float
    y: float
    width: float
    height: float
    kind: str
    title: str
    href: str = ""
    again: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Lane:
    """One step of the plan, or its jobs."""

    y: float
    height: float
    label: str
    full: str
    indent: float
    href: str
    bars: tuple[TimelineBar, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """A time on the axis, or a wait that is drawn short."""

    x: float
    label: str
    width: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """The drawing, and its sums as text.

    Args:
        breaks: Waits that are drawn short.
        sums: What was computed and what was waited for: label and text.
        note: What was left out.
    """

    width: float
    height: float
    lanes: tuple[Lane, ...]
    ticks: tuple[Tick, ...]
    breaks: tuple[Tick, ...]
    sums: tuple[tuple[str, str], ...]
    kinds: tuple[str, ...]
    note: str = ""


class _Axis:
    """Unix time → x, with long idle times drawn short."""

    def __init__(
        self, begin: float, end: float, busy: Sequence[Span], idle: Sequence[Span]
    ) -> None:
        idle = [part for each in idle for part in _minus(each, busy)]
        rest = max(end - begin - length(idle), 1e-3)
        self.breaks = [each for each in idle if each[1] - each[0] > max(LONG * rest, 2.0)]
        whole = (end - begin) - length(self.breaks)
        unit = SHORT * whole
        self._times, self._at = [begin], [0.0]
        for start, stop in self.breaks:
            self._add(start, self._at[-1] + start - self._times[-1])
            self._add(stop, self._at[-1] + unit)
        self._add(end, self._at[-1] + end - self._times[-1])
        self._scale = AREA / max(self._at[-1], 1e-6)

    def _add(self, moment: float, at: float) -> None:
        self._times.append(moment)
        self._at.append(at)

    def x(self, moment: float) -> float:
        """The position of a time; before or after the run, that of its begin or end."""
        moment = min(max(moment, self._times[0]), self._times[-1])
        i = min(max(bisect_right(self._times, moment) - 1, 0), len(self._times) - 2)
        (t0, t1), (x0, x1) = self._times[i : i + 2], self._at[i : i + 2]
        part = (moment - t0) / (t1 - t0) if t1 > t0 else 0.0
        return NAMES + (x0 + part * (x1 - x0)) * self._scale


def timeline(history: RunHistory, now: float, prefix: str = "") -> Timeline | None:
    """The timeline of a run; None if no step was started.

    Args:
        now: The end of what has not ended, in Unix time.
        prefix: Of the ids on the page.
    """
    return _Drawing(history, now, prefix).drawn() if history.attempts else None


class _Drawing:
    def __init__(self, history: RunHistory, now: float, prefix: str) -> None:
        self._history, self._prefix = history, prefix
        self._end = _end_of(history, now)
        self._begin = min([history.started or now, *(v.started for v in history.attempts)])
        self._waits = union(
            (q.asked_at, q.answered_at or self._end)
            for q in history.questions
            if q.asked_at is not None
        )
        self._off = union(_without_process(history))
        queues = [_queue(job, self._end) for v in history.attempts for job in v.jobs]
        timed = [_span(v, self._end) for v in history.attempts if v.kind == "wait"]
        busy = union(self._busy())
        idle = union([*self._waits, *self._off, *queues, *timed])
        self._axis = _Axis(self._begin, max(self._end, self._begin + 0.01), busy, idle)
        self._left = MOST_BARS

    def _busy(self) -> Iterable[Span]:
        """When something was computed; only jobs compute without a process."""
        for span in self._worked():
            yield from _minus(span, self._off)
        for attempt in self._history.attempts:
            for job in attempt.jobs:
                if job.started is not None:
                    yield job.started, job.ended or self._end

    def _worked(self) -> Iterable[Span]:
        """When the run's processes computed."""
        around = {id(v.parent) for v in self._history.attempts}
        for attempt in self._history.attempts:
            for call in attempt.calls:
                if call.finished:
                    yield call.started, call.started + (call.seconds or 0.0)
            quiet = attempt.calls or attempt.jobs or attempt.questions or attempt.kind == "wait"
            if not quiet and id(attempt) not in around:
                yield _span(attempt, self._end)

    def drawn(self) -> Timeline:
        groups: dict[str, list[RecordedAttempt]] = {}
        for attempt in self._history.attempts:
            groups.setdefault(without_indexes(attempt.path), []).append(attempt)
        lanes: list[Lane] = []
        y = TOP
        for path, attempts in list(groups.items())[:MOST_LANES]:
            lanes += self._lanes(path, attempts, y)
            y = lanes[-1].y + lanes[-1].height + GAP
        more = len(groups) - MOST_LANES
        notes = [f"{count(more, 'more step')} not drawn"] if more > 0 else []
        notes += ["further calls not drawn"] if self._left <= 0 else []
        used = dict.fromkeys(bar.kind for lane in lanes for bar in lane.bars)
        return Timeline(
            width=NAMES + AREA + RIGHT,
            height=y,
            lanes=tuple(lanes),
            ticks=tuple(self._ticks()),
            breaks=tuple(self._breaks()),
            sums=tuple(self._sums()),
            kinds=tuple(used),
            note=f"{', '.join(notes)}: see the steps below" if notes else "",
        )

    def _lanes(self, path: str, attempts: list[RecordedAttempt], y: float) -> list[Lane]:
        depth = attempts[0].depth
        bars, rows = self._packed([_span(v, self._end) for v in attempts])
        found = [
            bar for v, row in zip(attempts, bars, strict=True) for bar in self._bars(v, y, row)
        ]
        href = anchor(attempts[0], self._prefix)
        name = path.rpartition("/")[2] if depth else path
        lanes = [_lane(name, path, y, rows, depth, href, found)]
        if jobs := [(v, job) for v in attempts for job in v.jobs]:
            below = lanes[0].y + lanes[0].height + 2
            lanes.append(self._job_lane(path, jobs, below, depth, href))
        return lanes

    def _job_lane(
        self, path: str, jobs: list[tuple[RecordedAttempt, RecordedJob]], y: float, depth: int,
        href: str,
    ) -> Lane:  # fmt: skip
        spans = [(job.submitted or job.started or v.started, job.ended or self._end)
                 for v, job in jobs]  # fmt: skip
        places, rows = self._packed(spans)
        bars: list[TimelineBar] = []
        for (attempt, job), row in zip(jobs, places, strict=True):
            at, href_of = y + row * ROW, anchor(attempt, self._prefix)
            script = attempt.kind == "script"
            named = "program" if script else f"job {inert(job.job, 40)}"
            named += f" of {inert(job.step, 60)}"
            queued = _queue(job, self._end)
            if queued[1] > queued[0] and not script:  # the program of a script starts at once
                waited = in_words(queued[1] - queued[0])
                bars += self._bar(queued, at, "queue", f"{named} waited {waited}", href_of)
            if job.started is not None:
                ran = (job.started, job.ended or self._end)
                words = f"{named}, {inert(job.state, 20)}, ran {in_words(ran[1] - ran[0])}"
                words += f" on {inert(', '.join(job.nodes), 100)}" if job.nodes else ""
                bars += self._bar(ran, at, "job", words, href_of)
        what = "program" if all(attempt.kind == "script" for attempt, _ in jobs) else "job"
        label = what if len(jobs) == 1 else f"{len(jobs)} {what}s"
        return _lane(label, f"{path}: {label}", y, rows, depth + 1, href, bars)

    def _bars(self, attempt: RecordedAttempt, y: float, row: int) -> Iterable[TimelineBar]:
        """The bar of an attempt, and what happened inside."""
        at, href = y + row * ROW, anchor(attempt, self._prefix)
        span = _span(attempt, self._end)
        state = state_of(self._history, attempt)
        kind = "wait" if attempt.kind == "wait" and state == "success" else state
        nth = f", {ordinal(attempt.number)} attempt" if attempt.number > 1 else ""
        words = f"{inert(attempt.path, 100)}{nth}: {attempt.outcome or 'not finished'}"
        took = attempt.seconds if attempt.seconds is not None else span[1] - span[0]
        title = f"{words}, {in_words(took)}, from {exactly(span[0])}"
        yield from self._bar(span, at, kind, title, href, again=attempt.number > 1)
        for asked in attempt.questions:
            if asked.asked_at is not None:
                waited = (asked.asked_at, asked.answered_at or self._end)
                text = f"waited for an answer {in_words(waited[1] - waited[0])}"
                yield from self._bar(waited, at, "wait", text, href)
        yield from self._inside(attempt, at, href)

    def _inside(self, attempt: RecordedAttempt, at: float, href: str) -> Iterable[TimelineBar]:
        last: tuple[str, float] | None = None
        parts: list[tuple[str, Span, str]] = []
        for call in attempt.calls:
            stop = call.started + (call.seconds or 0.0) if call.finished else self._end
            stop = min(stop, attempt.ended or self._end)
            took = in_words(call.seconds) if call.seconds is not None else "outcome unknown"
            parts.append((call.kind, (call.started, stop), f"{inert(call.name, 80)}, {took}"))
        for item in attempt.items.values():
            if item.started and not attempt.calls and not attempt.jobs:
                span = (item.started, item.started + (item.seconds or 0.0))
                parts.append(("item", span, attempt.part(f"[{item.index}]")))
        for kind, span, words in parts:
            place = (kind, round(self._axis.x(span[0])))
            if self._left <= 0 or place == last:  # too close to the call before to be seen
                continue
            last = place
            yield from self._bar(span, at + ROW * 0.45, kind, words, href, height=ROW * 0.3)

    def _bar(
        self, span: Span, y: float, kind: str, title: str, href: str, *, again: bool = False,
        height: float = ROW - 3,
    ) -> Iterable[TimelineBar]:  # fmt: skip
        self._left -= 1
        x = self._axis.x(span[0])
        width = max(self._axis.x(span[1]) - x, 2.0)
        yield TimelineBar(
            x=round(x, 1), y=round(y, 1), width=round(width, 1), height=round(height, 1),
            kind=kind, title=title, href=href, again=again,
        )  # fmt: skip

    def _packed(self, spans: Sequence[Span]) -> tuple[list[int], int]:
        """The row of each bar, so that bars at the same time do not overlap; and the rows."""
        ends: list[float] = []
        rows: list[int] = []
        for start, stop in spans:
            free = [row for row, end in enumerate(ends) if end <= start + 1e-6]
            row = free[0] if free else min(len(ends), MOST_ROWS - 1)
            if row == len(ends):
                ends.append(stop)
            ends[row] = max(ends[row], stop)
            rows.append(row)
        return rows, max(len(ends), 1)

    def _ticks(self) -> Iterable[Tick]:
        total = self._end - self._begin
        step = next((s for s in STEPS if total / s <= 8), total / 8 or 1.0)
        last = -1e9
        for i in range(int(total / step) + 1):
            x = self._axis.x(self._begin + i * step)
            if x - last > 48 and not self._in_break(self._begin + i * step):
                last = x
                label = clock(i * step) if step >= 1 else in_words(i * step)
                yield Tick(x=round(x, 1), label=label)

    def _in_break(self, moment: float) -> bool:
        return any(start < moment < stop for start, stop in self._axis.breaks)

    def _breaks(self) -> Iterable[Tick]:
        for start, stop in self._axis.breaks:
            x = self._axis.x(start)
            width = self._axis.x(stop) - x
            yield Tick(x=round(x, 1), width=round(width, 1), label=in_words(stop - start))

    def _sums(self) -> Iterable[tuple[str, str]]:
        """Times as text, each only if it is known and not zero."""
        usage = self._history.usage
        found = [
            ("steps and calls", float(usage.get("seconds") or 0.0)),
            ("jobs ran", float(usage.get("job_seconds") or 0.0)),
            ("jobs waited in the queue", float(usage.get("queue_seconds") or 0.0)),
            ("waited for answers", length(self._waits)),
            ("no process", length(self._off)),
        ]
        yield from ((label, in_words(value)) for label, value in found if value >= 0.001)
        yield "from start to end", in_words(max(self._end - self._begin, found[0][1]))


STEPS: Final = (
    *(0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200),
    *(14_400, 21_600, 43_200, 86_400, 172_800, 604_800),
)
"""Distances of ticks in seconds."""


def anchor(attempt: RecordedAttempt, prefix: str = "") -> str:
    """The id of an attempt on a page: ``step-PATH``, of the third ``step-PATH~3``.

    Odd characters of the path are written as in an address, ``%5B``, so that the id is its own
    fragment.
    """
    nth = f"~{attempt.number}" if attempt.number > 1 else ""
    return step_id(attempt.path, prefix) + nth


def step_id(path: str, prefix: str = "") -> str:
    """The id of the first attempt of a path."""
    return f"{prefix}step-{quote(path, errors='replace')}"


def _lane(
    name: str, full: str, y: float, rows: int, depth: int, href: str, bars: list[TimelineBar]
) -> Lane:
    indent = min(depth, 6) * 10.0
    return Lane(
        y=y,
        height=rows * ROW,
        label=fit(inert(name), int((NAMES - indent - 12) / 7)),
        full=inert(full, 200),
        indent=indent,
        href=href,
        bars=tuple(bars),
    )


def _span(attempt: RecordedAttempt, end: float) -> Span:
    if attempt.outcome == "skipped" or attempt.ended is None:
        return attempt.started, attempt.ended or end
    return attempt.started, max(attempt.started, attempt.ended)


def _queue(job: RecordedJob, end: float) -> Span:
    """How long a job waited in the queue."""
    begin = job.submitted or job.started or job.ended or end
    return begin, max(begin, job.started or job.ended or end)


def _without_process(history: RunHistory) -> Iterable[Span]:
    """The times between two processes of the run: of one that was killed, from its last event."""
    for before, after in zip(history.processes, history.processes[1:], strict=False):
        ended = before.seen if before.ended is None else before.ended
        if after.started > ended:
            yield ended, after.started


def _end_of(history: RunHistory, now: float) -> float:
    if history.alive:
        return now
    ends = [history.ended or 0.0, history.started]
    for attempt in history.attempts:
        ends += [attempt.started, attempt.ended or 0.0]
        ends += [call.started + (call.seconds or 0.0) for call in attempt.calls]
        ends += [job.ended or job.started or 0.0 for job in attempt.jobs]
    return max(ends)


def union(spans: Iterable[tuple[float | None, float]]) -> list[Span]:
    """Spans without overlaps, in order."""
    found: list[Span] = []
    for start, stop in sorted((a, b) for a, b in spans if a is not None and b > a):
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], stop))
        else:
            found.append((start, stop))
    return found


def _minus(span: Span, busy: Sequence[Span]) -> Iterable[Span]:
    """The parts of a span outside of others, which are in order."""
    start, stop = span
    first = max(bisect_right(busy, (start, float("inf"))) - 1, 0)
    for begin, end in busy[first:]:
        if begin >= stop:
            break
        if end <= start:
            continue
        if begin > start:
            yield start, begin
        start = max(start, end)
    if stop > start:
        yield start, stop


def length(spans: Iterable[Span]) -> float:
    """The sum of the durations of some spans, in seconds."""
    return sum(stop - start for start, stop in spans)
