"""What you do to a run: answer, cancel, resume, fork. Each is a conversation; none acts unasked."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from fractale.errors import FractaleError
from fractale.questions import MISSING
from fractale.questions.parsing import NO, YES
from fractale.record.history import RunHistory
from fractale.record.history_reader import read_history
from fractale.render.phrases import as_json
from fractale.render.questions import exact
from fractale.render.text import count, fit, inert, row
from fractale.runs.actions import Actions, AlreadyAnswered, OpenQuestion
from fractale.store.locks import holder_of
from fractale.store.run_record import RunRecords
from fractale.top.conversation import Conversation, ConversationLeft
from fractale.top.overview import asked_in_short
from fractale.top.run_text import origin_lines

if TYPE_CHECKING:
    from fractale.runs.actions import BackgroundRun, CancelOutcome

Ask = Callable[[Conversation, Mapping[str, Any]], Awaitable[Any]]
"""Asks one question in a conversation, as at a terminal; returns the answer or MISSING."""

MOST_LISTED: Final = 40
CHANGE: Final = "  a changed input, NAME=VALUE (Enter: no more) > "
LOOK_SECONDS: Final = 0.5
"""How often to look whether a question that is on the screen was answered elsewhere."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """How a conversation ended.

    Args:
        words: One line for the screen below; empty if nothing was done.
        run: The run to select then, if another one was started.
    """

    words: str = ""
    run: str | None = None


class Dialogues:
    """The conversations of one state directory.

    Args:
        ask: Asks a question.
    """

    def __init__(self, records: RunRecords, actions: Actions, ask: Ask) -> None:
        self._records = records
        self._actions = actions
        self._ask = ask

    async def answer(self, talk: Conversation, run_id: str) -> Done:
        """Answer one of a run's open questions."""
        questions = await asyncio.to_thread(self._actions.questions, run_id)
        if not questions:
            return Done(words=f"run {run_id} asks nothing")
        chosen = questions[0]
        if len(questions) > 1:
            chosen = await _one_of(talk, questions)
        if chosen.problem:
            talk.show(row(f"  {inert(asked_in_short(chosen.question), 300)}"))
            talk.show(row(f"  {inert(chosen.problem, 600)}", "warn"))
            await talk.line("  Enter to go back > ")
            return Done(words="not answered")
        talk.show(*origin_lines(chosen.question))
        watching = asyncio.create_task(self._until_closed(talk, run_id, chosen.key))
        try:
            answer = await self._ask(talk, chosen.question)
        finally:
            watching.cancel()
        if watching.done() and not watching.cancelled():
            raise AlreadyAnswered("it was answered elsewhere meanwhile")
        if answer is MISSING:
            raise ConversationLeft
        talk.agreed("answering …")
        done = await self._actions.answer(run_id, chosen.key, answer)
        left = f"; {count(len(questions) - 1, 'more question')}" if len(questions) > 1 else ""
        how = "resumes in the background" if done.started else "has the answer"
        return Done(words=f"answered: run {run_id} {how}{left}")

    async def _until_closed(self, talk: Conversation, run_id: str, key: str) -> None:
        """End the conversation when its question is no longer open."""
        record = self._records.at(run_id)
        size = self._records.events_size(run_id)
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            now = self._records.events_size(run_id)
            if now == size:
                continue
            size = now
            try:
                open_ = await asyncio.to_thread(self._actions.questions, record.run_id)
            except FractaleError:
                continue
            if all(each.key != key for each in open_):
                talk.leave()
                return

    async def cancel(self, talk: Conversation, run_id: str) -> Done:
        """Cancel a run, or the jobs of one of its steps."""
        record = self._records.find(run_id)
        history = await asyncio.to_thread(read_history, record)
        jobs = [job for attempt in history.attempts for job in attempt.jobs if not job.over]
        steps = list(dict.fromkeys(job.step for job in jobs))
        talk.show(row(f"  cancel run {run_id} of {inert(str(history.head.get('plan')), 80)}"))
        for job in jobs[:MOST_LISTED]:
            state = inert(f"{job.scheduler} job {job.job} {job.state}", 80)
            talk.show(row(f"    {inert(job.step, 60)}  {state}"))
        if len(jobs) > MOST_LISTED:
            talk.show(row(f"    … {count(len(jobs) - MOST_LISTED, 'more job')}"))
        if holder := holder_of(record):
            talk.show(row(f"    it is in progress ({holder}); it stops and can be resumed"))
        if not jobs and not holder:
            talk.show(row("    no process works on it and no job is in progress"))
        step = await _step_to_cancel(talk, steps) if steps else None
        what = f"the jobs of step {inert(step, 60)}" if step else f"run {run_id}"
        if not await agrees(talk, f"cancel {what}?"):
            return Done(words="nothing was cancelled")
        talk.agreed("cancelling …")
        return Done(words=_cancelled(await self._actions.cancel(run_id, step), what))

    async def resume(self, talk: Conversation, run_id: str) -> Done:
        """Resume a run in the background."""
        talk.show(row(f"  resume run {run_id} in the background"))
        talk.show(row("  It keeps running when you leave `fractale top`."))
        if not await agrees(talk, "resume it?"):
            return Done(words="nothing was resumed")
        talk.agreed("starting …")
        return Done(words=_started(await self._actions.resume(run_id), "resumed"))

    async def fork(self, talk: Conversation, run_id: str) -> Done:
        """Start a new run from a step of this one."""
        record = self._records.find(run_id)
        history = await asyncio.to_thread(read_history, record)
        points = _fork_points(history)
        if not points:
            return Done(words=f"run {run_id} has not started a step; it cannot be forked")
        shown = points[-MOST_LISTED:]
        talk.show(row(f"  fork run {run_id}: a new run from the state before a step"))
        for number, (point, outcome) in enumerate(shown, 1):
            talk.show(row(f"   {number:>2}  {inert(point, 60)}  {outcome}"))
        last = _default_point(history, shown)
        text = await talk.line(f"  before which step? (Enter: {inert(last, 40)}) > ")
        at = _named(text.strip() or last, [point for point, _ in shown])
        for name, value in history.inputs.items():
            words = fit(exact(as_json(value)), 200)
            talk.show(row(f"    {inert(str(name), 40)}={words}", "dim"))
        inputs: dict[str, Any] = {}
        while text := (await talk.line(CHANGE)).strip():
            name, equals, value = text.partition("=")
            if not equals or not name.strip():
                talk.show(row("  write it as NAME=VALUE, such as time=30m", "warn"))
                continue
            inputs[name.strip().removeprefix("inputs.")] = value.strip()
        changed = ", ".join(f"{inert(n, 40)}={inert(v, 80)}" for n, v in inputs.items())
        talk.show(row(f"  before {inert(at, 60)}, with {changed or 'the same inputs'}"))
        if not await agrees(talk, "start this fork in the background?"):
            return Done(words="nothing was started")
        talk.agreed("starting …")
        started = await self._actions.fork(run_id, at, inputs)
        return Done(words=_started(started, "started"), run=started.run)


async def guarded(talk: Conversation, work: Awaitable[Done]) -> Done:
    """A conversation to its end; an error is shown until the user goes back."""
    try:
        return await work
    except ConversationLeft:
        return Done()
    except FractaleError as error:
        talk.reopen()
        first, *more = inert(error.message, 2000, lines=True).split("\n")
        more += inert(error.hint, 2000, lines=True).split("\n") if error.hint else []
        talk.show(row(""), row(f"  not done: {first}", "bad"), *(row(f"  {line}") for line in more))
        with contextlib.suppress(ConversationLeft):
            await talk.line("  Enter to go back > ")
        return Done(words=f"not done: {fit(first, 200)}")


async def _one_of(talk: Conversation, questions: Sequence[OpenQuestion]) -> OpenQuestion:
    shown = questions[:MOST_LISTED]
    for number, each in enumerate(shown, 1):
        asked = inert(asked_in_short(each.question), 300)
        talk.show(row(f"  {number:>2}  {inert(each.step, 60)}: {asked}"))
    if len(questions) > len(shown):
        talk.show(row(f"  … {count(len(questions) - len(shown), 'more question')}"))
    while True:
        text = (await talk.line("  which one? (Enter: 1) > ")).strip() or "1"
        if text.isdecimal() and 1 <= int(text) <= len(shown):
            return shown[int(text) - 1]
        talk.show(row(f"  a number from 1 to {len(shown)}", "warn"))


async def _step_to_cancel(talk: Conversation, steps: Sequence[str]) -> str | None:
    """The step whose jobs are meant; None for the whole run."""
    while True:
        text = (await talk.line("  Enter the whole run · or a step: only its jobs > ")).strip()
        if not text:
            return None
        if text in steps:
            return text
        talk.show(row(f"  steps with jobs: {', '.join(inert(s, 60) for s in steps[:12])}", "warn"))


async def agrees(talk: Conversation, words: str) -> bool:
    """Whether the user types yes. Enter is no."""
    while True:
        word = (await talk.line(f"  {words} [y/N] > ")).strip().casefold()
        if word in YES:
            return True
        if not word or word in NO:
            return False
        talk.show(row("  y or n", "warn"))


def _fork_points(history: RunHistory) -> list[tuple[str, str]]:
    """Where the run can be forked, and how that attempt ended."""
    found: list[tuple[str, str]] = []
    for attempt in history.attempts:
        if attempt.parent is not None or attempt.handler:
            continue
        times = sum(each.path == attempt.path for each in history.attempts)
        name = f"{attempt.path}#{attempt.number}" if times > 1 else attempt.path
        found.append((name, attempt.outcome or "not finished"))
    return found


def _default_point(history: RunHistory, points: Sequence[tuple[str, str]]) -> str:
    """The last step that failed, else the last one."""
    failed = [name for name, outcome in points if outcome == "failure"]
    return failed[-1] if failed and history.status != "success" else points[-1][0]


def _named(text: str, points: Sequence[str]) -> str:
    """A step by its number in the list, or as it was typed."""
    if text.isdecimal() and text not in points and 1 <= int(text) <= len(points):
        return points[int(text) - 1]
    return text


def _cancelled(done: CancelOutcome, what: str) -> str:
    if done.trouble:
        return f"{what}: {inert(done.trouble, 300)}"
    jobs = f" and {count(len(done.jobs), 'job')}" if done.jobs and done.step is None else ""
    later = "" if done.stopped or done.step else "; it stops after the call in progress"
    return f"cancelled {what}{jobs}{later}"


def _started(started: BackgroundRun, word: str) -> str:
    ready = "" if started.begun else "; it still opens its servers"
    return f"{word} run {started.run} in the background (process {started.pid}){ready}"
