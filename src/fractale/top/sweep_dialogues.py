"""What you do to a sweep: answer, cancel, resume or retry. Each is a conversation."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from fractale.questions import MISSING
from fractale.render.sweep import counts_text, limit_text, total_of
from fractale.render.text import count, inert, row
from fractale.sweeps.actions import SweepActions, possible
from fractale.sweeps.analysis import row_ranges
from fractale.sweeps.answering import QuestionGroup
from fractale.sweeps.results import SweepView, view_of
from fractale.top.conversation import Conversation, ConversationLeft
from fractale.top.dialogues import Ask, Done, agrees
from fractale.top.overview import asked_in_short
from fractale.top.run_text import origin_lines

MOST_LISTED: Final = 40


class SweepDialogues:
    """The conversations about the sweeps of one state directory.

    Args:
        ask: Asks a question.
    """

    def __init__(self, actions: SweepActions, ask: Ask) -> None:
        self._actions = actions
        self._ask = ask

    async def _view(self, sweep_id: str) -> SweepView:
        return await asyncio.to_thread(view_of, self._actions.find(sweep_id))

    async def answer(self, talk: Conversation, sweep_id: str) -> Done:
        """Answer one question for all runs that ask the same."""
        groups = await asyncio.to_thread(self._actions.questions, sweep_id)
        if not groups:
            return Done(words=f"no run of sweep {sweep_id} asks anything")
        chosen = groups[0] if len(groups) == 1 else await _one_of(talk, groups)
        rows = row_ranges([each.row for each in chosen.asking])
        talk.show(row(f"  {count(len(chosen.asking), 'run')} of sweep {sweep_id}, rows {rows}:"))
        if chosen.problem:
            talk.show(row(f"  {inert(asked_in_short(chosen.question), 300)}"))
            talk.show(row(f"  {inert(chosen.problem, 600)}", "warn"))
            await talk.line("  Enter to go back > ")
            return Done(words="not answered")
        talk.show(*origin_lines(chosen.question))
        answer = await self._ask(talk, chosen.question)
        if answer is MISSING:
            raise ConversationLeft
        talk.agreed("answering …")
        given = await self._actions.answer(sweep_id, chosen.key, answer)
        number = sum(len(each.rows) for each in given)
        more = len(groups) - 1
        left = f"; {count(more, 'more question')}" if more else ""
        return Done(words=f"answered for {count(number, 'run')} of sweep {sweep_id}{left}")

    async def cancel(self, talk: Conversation, sweep_id: str) -> Done:
        """End a sweep, with the batch jobs of its runs."""
        view = await self._view(sweep_id)
        talk.show(row(f"  cancel sweep {sweep_id} of {inert(view.plan, 80)}"))
        talk.show(row(f"    {counts_text(view.counts)}"))
        talk.show(row("    its runs stop, and their batch jobs end; it can be resumed"))
        if "cancel" not in possible(view):
            return Done(words=f"sweep {sweep_id} has ended: there is nothing to cancel")
        if not await agrees(talk, f"cancel sweep {sweep_id}?"):
            return Done(words="nothing was cancelled")
        talk.agreed("cancelling …")
        trouble = await self._actions.cancel(sweep_id)
        return Done(words=inert(trouble, 300) or f"cancelled sweep {sweep_id}")

    async def resume(self, talk: Conversation, sweep_id: str) -> Done:
        """Continue a sweep in the background; if nothing is left to do, retry its failed rows."""
        view = await self._view(sweep_id)
        can = possible(view)
        talk.show(row(f"  sweep {sweep_id} of {inert(view.plan, 80)}: {counts_text(view.counts)}"))
        for limit in view.limits:
            talk.show(row(f"    {inert(limit.name, 40)}  {limit_text(limit)}"))
        failed = count(view.counts.get("failed", 0), "failed row")
        if not can & {"resume", "retry"}:
            return Done(words=_why_not(view))
        resumes = "resume" in can
        question = "resume it in the background?" if resumes else f"retry {failed}?"
        if not await agrees(talk, question):
            return Done(words="nothing was started")
        talk.agreed("starting …")
        if resumes:
            await self._actions.resume(sweep_id)
            return Done(words=f"resumed sweep {sweep_id} in the background")
        await self._actions.retry(sweep_id)
        return Done(words=f"{failed} of sweep {sweep_id} begin again in the background")


def _why_not(view: SweepView) -> str:
    if view.reached:
        raised = f"fractale sweep resume {view.id} --limit {view.reached}=…"
        return f"sweep {view.id} reached its limit `{view.reached}`; raise it: {raised}"
    if view.status in ("running", "queued"):
        return f"sweep {view.id} is {view.status}"
    words = "its runs wait" if view.counts.get("waiting") else "nothing is left to do"
    return f"sweep {view.id}: {words} ({total_of(view):,} rows)"


async def _one_of(talk: Conversation, groups: Sequence[QuestionGroup]) -> QuestionGroup:
    shown = groups[:MOST_LISTED]
    for number, each in enumerate(shown, 1):
        asked = inert(asked_in_short(each.question), 300)
        runs = count(len(each.asking), "run")
        talk.show(row(f"  {number:>2}  {inert(each.step, 60)} ({runs}): {asked}"))
    if len(groups) > len(shown):
        talk.show(row(f"  … {count(len(groups) - len(shown), 'more question')}"))
    while True:
        text = (await talk.line("  which one? (Enter: 1) > ")).strip() or "1"
        if text.isdecimal() and 1 <= int(text) <= len(shown):
            return shown[int(text) - 1]
        talk.show(row(f"  a number from 1 to {len(shown)}", "warn"))
