"""Figures of a job, read from its log, however long that is."""

from __future__ import annotations

import asyncio
import math
import re
from collections import deque
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from fractale.plan.model import Metric
from fractale.plan.regexes import LONGEST_TEXT, MOST_VALUES, NOTHING, values_of

if TYPE_CHECKING:
    from fractale.jobs import JobHandle, Jobs

_WHOLE = re.compile(r"[-+]?[0-9]+")


@dataclass(frozen=True, slots=True)
class Log:
    """The log of one job, in parts.

    Args:
        jobs: None where there is no such job, and so no log.
        size: In bytes.
    """

    handle: JobHandle
    jobs: Jobs | None
    size: int

    @classmethod
    async def of(cls, handle: JobHandle, jobs: Jobs | None) -> Log:
        """The log of a job as it is now."""
        size = (await jobs.logs(handle, offset=0, limit=1)).size if jobs else 0
        return cls(handle, jobs, size)

    async def part(self, start: int, end: int) -> str:
        """What stands from a byte to another."""
        if self.jobs is None or start >= end:
            return ""
        return (await self.jobs.logs(self.handle, offset=start, limit=end - start)).text


async def read_figures(figures: Mapping[str, Metric], log: Log) -> tuple[dict[str, Any], list[str]]:
    """The figures that are in a job's log.

    Returns:
        Those that were found, and what is wrong with each of the others, in words.
    """
    found: dict[str, Any] = {}
    faults: list[str] = []
    for name, figure in figures.items():
        try:
            texts = await _texts(figure, log)
            values = [_typed(figure, text) for text in texts]
        except ValueError as error:
            faults.append(f"`{name}` could not be read from the log: {error}")
            continue
        if values:
            found[name] = values if figure.take == "all" else values[0]
        elif figure.required:
            pattern = f"its pattern `{figure.pattern}`"
            faults.append(f"the job's log has no `{name}`: {pattern} {NOTHING}")
    return found, faults


async def _texts(figure: Metric, log: Log) -> list[str]:
    """What the group of a figure's pattern took: of one match, or of all."""
    found: list[str] = []
    windows = _backwards(log) if figure.take == "last" else _forwards(log)
    async for text in windows:
        found += await asyncio.to_thread(_in_window, figure, text)
        if (found and figure.take != "all") or len(found) >= MOST_VALUES:
            break
    return found[:MOST_VALUES]


def _in_window(figure: Metric, text: str) -> list[str]:
    values = values_of(figure.pattern, text)
    if figure.take == "last":
        return list(deque(values, maxlen=1))
    return list(islice(values, MOST_VALUES if figure.take == "all" else 1))


async def _forwards(log: Log) -> AsyncIterator[str]:
    """The log in parts that end with a line, from its start."""
    rest = ""
    for start in range(0, log.size, LONGEST_TEXT):
        end = min(start + LONGEST_TEXT, log.size)
        text = rest + await log.part(start, end)
        cut = len(text) if end == log.size else text.rfind("\n") + 1 or len(text)
        yield text[:cut]
        rest = text[cut:]


async def _backwards(log: Log) -> AsyncIterator[str]:
    """The log in parts that begin with a line, from its end."""
    end, rest = log.size, ""
    while end > 0:
        start = max(end - LONGEST_TEXT, 0)
        text = await log.part(start, end) + rest
        cut = text.find("\n") + 1 if start else 0
        yield text[cut:]
        end, rest = start, text[:cut]


def _typed(figure: Metric, text: str) -> Any:
    """The text of a figure as what it is to be.

    Raises:
        ValueError: It is nothing of that type.
    """
    if figure.type == "string":
        return text
    try:
        if _WHOLE.fullmatch(text):
            return int(text)
        number = float(text) if figure.type == "number" else math.nan
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        right = "a whole number" if figure.type == "integer" else "a number"
        raise ValueError(f"`{text[:60]}` is not {right}; another `type` would take it")
    return number
