"""Metrics of a job, read from its log in parts because the log may have any size."""

from __future__ import annotations

import asyncio
import math
import re
from collections import deque
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from fractale.jobs.service import Jobs
from fractale.plan.model import Metric
from fractale.regexes import LONGEST_TEXT, MOST_VALUES, NOTHING, values_of
from fractale.schedulers.job import JobHandle

_WHOLE = re.compile(r"[-+]?[0-9]+")


@dataclass(frozen=True, slots=True)
class LogParts:
    """The log of one job.

    Args:
        jobs: None if the job does not exist; the log is then empty.
        size: Size of the log, in bytes.
    """

    handle: JobHandle
    jobs: Jobs | None
    size: int

    @classmethod
    async def of(cls, handle: JobHandle, jobs: Jobs | None) -> LogParts:
        """Get the log of a job, with its present size."""
        size = (await jobs.logs(handle, offset=0, limit=1)).size if jobs else 0
        return cls(handle, jobs, size)

    async def part(self, start: int, end: int) -> str:
        """Read the text between two offsets in bytes."""
        if self.jobs is None or start >= end:
            return ""
        return (await self.jobs.logs(self.handle, offset=start, limit=end - start)).text


async def read_metrics(
    metrics: Mapping[str, Metric], log: LogParts
) -> tuple[dict[str, Any], list[str]]:
    """Read the metrics from a job's log.

    Returns:
        The values found, and one text per metric that is missing or not readable.
    """
    found: dict[str, Any] = {}
    faults: list[str] = []
    for name, metric in metrics.items():
        try:
            texts = await _texts(metric, log)
            values = [_typed(metric, text) for text in texts]
        except ValueError as error:
            faults.append(f"`{name}` could not be read from the log: {error}")
            continue
        if values:
            found[name] = values if metric.take == "all" else values[0]
        elif metric.required:
            pattern = f"its pattern `{metric.pattern}`"
            faults.append(f"the job's log has no `{name}`: {pattern} {NOTHING}")
    return found, faults


async def _texts(metric: Metric, log: LogParts) -> list[str]:
    """Find the texts that the group of a metric's pattern matches: one, or all for `take: all`."""
    found: list[str] = []
    windows = _backwards(log) if metric.take == "last" else _forwards(log)
    async for text in windows:
        found += await asyncio.to_thread(_in_window, metric, text)
        if (found and metric.take != "all") or len(found) >= MOST_VALUES:
            break
    return found[:MOST_VALUES]


def _in_window(metric: Metric, text: str) -> list[str]:
    values = values_of(metric.pattern, text)
    if metric.take == "last":
        return list(deque(values, maxlen=1))
    return list(islice(values, MOST_VALUES if metric.take == "all" else 1))


async def _forwards(log: LogParts) -> AsyncIterator[str]:
    """Read the log in parts from its start; each part ends with a complete line."""
    rest = ""
    for start in range(0, log.size, LONGEST_TEXT):
        end = min(start + LONGEST_TEXT, log.size)
        text = rest + await log.part(start, end)
        cut = len(text) if end == log.size else text.rfind("\n") + 1 or len(text)
        yield text[:cut]
        rest = text[cut:]


async def _backwards(log: LogParts) -> AsyncIterator[str]:
    """Read the log in parts from its end; each part begins with a complete line."""
    end, rest = log.size, ""
    while end > 0:
        start = max(end - LONGEST_TEXT, 0)
        text = await log.part(start, end) + rest
        cut = text.find("\n") + 1 if start else 0
        yield text[cut:]
        end, rest = start, text[:cut]


def _typed(metric: Metric, text: str) -> Any:
    """Convert the text of a metric to a value of its type.

    Raises:
        ValueError: The text does not have that type.
    """
    if metric.type == "string":
        return text
    try:
        if _WHOLE.fullmatch(text):
            return int(text)
        number = float(text) if metric.type == "number" else math.nan
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        right = "a whole number" if metric.type == "integer" else "a number"
        raise ValueError(f"`{text[:60]}` is not {right}; another `type` would take it")
    return number
