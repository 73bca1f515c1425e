"""Calls that a process was killed in: they are told again when the run goes on, made or not."""

from __future__ import annotations

from collections.abc import Sequence

from fractale.record.history import Asked, CallMade, Visit


def earlier(made: CallMade, calls: Sequence[CallMade]) -> CallMade | None:
    """The latest of some calls that is the same one in the journal, if its end is not known."""
    if made.key is None:
        return None
    alike = [each for each in calls if each.key == made.key]
    return alike[-1] if alike and not alike[-1].finished else None


def is_about(asked: Asked, made: CallMade) -> bool:
    """Whether a question is what to do about such a call."""
    question = asked.question
    told = tuple(question.get(name) for name in ("kind", "step", "tool", "arguments"))
    return told == ("in_doubt", made.step, made.name, made.arguments)


def doubt(visit: Visit, made: CallMade) -> Asked | None:
    """The question that was asked about a call after a process had been killed in it."""
    about = [asked for asked in visit.questions if is_about(asked, made)]
    since = [each for each in about if (each.asked_at or each.answered_at or 0.0) > made.started]
    return since[-1] if since else None


def lost_call(visit: Visit, made: CallMade) -> CallMade | None:
    """The earlier call that this one is, unless it was made again."""
    lost = earlier(made, visit.calls)
    asked = doubt(visit, lost) if lost else None
    return lost if asked and asked.answer != "again" else None
