"""Why each step of a plan would run, for people: ``fractale run --why``."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from fractale.render.text import inert

if TYPE_CHECKING:
    from fractale.runs.why import Why

MOST_NAME = 30
"""Characters of a step's path that keep the column narrow."""


def why_lines(found: Sequence[Why]) -> Iterator[str]:
    """One line for each step."""
    names = [inert(each.step, 200) for each in found]
    width = min(max(map(len, names), default=0), MOST_NAME)
    for name, each in zip(names, found, strict=True):
        yield f"  {name:{width}}  {why_text(each)}"


def why_text(why: Why) -> str:
    """What happens at a step, and why: ``runs: argument `x` differs from run k7f3 (12 Nov)``."""
    when = f" ({_day(why.at)})" if why.at else ""
    if why.verdict == "taken over":
        text = f"taken over from run {inert(why.run, 80)}{when}"
    else:
        reason = inert(why.reason, 1000)
        named = when if why.run and reason.endswith(why.run) else ""
        text = f"{why.verdict}: {reason}{named}"
    if sum(why.items.values()) > 1:
        counts = ", ".join(f"{number} {_items(verdict)}" for verdict, number in why.items.items())
        text = f"{text}   items: {counts}"
    return text


def _items(verdict: str) -> str:
    return "run" if verdict == "runs" else verdict


def _day(at: float) -> str:
    then, now = time.localtime(at), time.localtime()
    if then[:3] == now[:3]:
        return time.strftime("%H:%M", then)
    form = "%-d %b" if then.tm_year == now.tm_year else "%-d %b %Y"
    return time.strftime(form, then)
