"""The tools that the benchmarks call."""

from __future__ import annotations

import asyncio


def echo(n: int = 0) -> dict:
    """Answer with what was asked: the cheapest tool there can be."""
    return {"n": n, "returncode": 0}


async def second(n: int = 0) -> dict:
    """Take one second."""
    await asyncio.sleep(1.0)
    return {"n": n}
