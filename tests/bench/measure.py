"""Timing whole commands and pieces of work, as medians with their spread."""

from __future__ import annotations

import gc
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
SOURCE = HERE.parents[1]


@dataclass(frozen=True)
class Sample:
    """Seconds of several tries of the same thing."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    def over(self, peer: Sample) -> float:
        """The median of the ratios to a peer that was measured in turns with it."""
        pairs = zip(self.seconds, peer.seconds, strict=True)
        return statistics.median(ours / theirs for ours, theirs in pairs)

    def __str__(self) -> str:
        low, high = min(self.seconds), max(self.seconds)
        return f"{self.median * 1000:,.1f} ms ({low * 1000:,.1f}-{high * 1000:,.1f})"


@dataclass(frozen=True)
class Row:
    """One line of the table: what was measured, against what, and how it must come out."""

    what: str
    ours: str
    peer: str
    ratio: float
    limit: float | None
    """None: it is only reported."""

    @property
    def ok(self) -> bool:
        return self.limit is None or self.ratio <= self.limit


def command(words: Sequence[str], *, cwd: Path, **env: str) -> Callable[[], float]:
    """A command that returns the seconds it took, each time it is called.

    Raises:
        RuntimeError: The command failed: its time would mean nothing.
    """
    environment = {**os.environ, **env}

    def once() -> float:
        started = time.perf_counter()
        done = subprocess.run(
            words,
            cwd=cwd,
            env=environment,
            stdin=subprocess.DEVNULL,  # 0.1.0 asks where a step failed
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        seconds = time.perf_counter() - started
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(words)}: {done.returncode}\n{done.stdout}{done.stderr}")
        return seconds

    return once


def python(code: str, *, cwd: Path) -> Callable[[], float]:
    """A Python that runs this code, as `command`."""
    return command([sys.executable, "-c", code], cwd=cwd)


def commands_in_turns(*commands: Callable[[], float], tries: int = 7) -> list[Sample]:
    """Seconds of commands that are to be compared, as `in_turns` takes them."""
    rounds = [[once() for once in commands] for _ in range(tries + 1)][1:]
    return [Sample(taken) for taken in zip(*rounds, strict=True)]


async def work(do: Callable[[], Awaitable[object]], tries: int = 5) -> Sample:
    """Seconds of a piece of work, after one try that is not counted."""
    (sample,) = await in_turns(do, tries=tries)
    return sample


async def in_turns(*pieces: Callable[[], Awaitable[object]], tries: int) -> list[Sample]:
    """Seconds of pieces of work that are to be compared, after one round that is not counted.

    Each has its try in every round: a disk or a neighbor that is slow for a while slows all.
    """
    seconds: list[list[float]] = [[] for _ in pieces]
    for _ in range(tries + 1):
        for piece, taken in zip(pieces, seconds, strict=True):
            started = time.perf_counter()
            await piece()
            taken.append(time.perf_counter() - started)
    return [Sample(tuple(taken[1:])) for taken in seconds]


async def cpu_in_turns(*pieces: Callable[[], Awaitable[object]], tries: int) -> list[Sample]:
    """CPU seconds of pieces of work in this process, as `in_turns` takes them.

    Time that other processes take does not count. The first rounds warm up caches, and the garbage
    of one piece is collected before the next begins.
    """
    seconds: list[list[float]] = [[] for _ in pieces]
    for number in range(tries + 3):
        for piece, taken in zip(pieces, seconds, strict=True):
            gc.collect()
            started = time.process_time()
            await piece()
            if number >= 3:
                taken.append(time.process_time() - started)
    return [Sample(tuple(taken)) for taken in seconds]


def fractale(*words: str) -> list[str]:
    """Our command, from the same environment as this Python."""
    return [str(Path(sys.executable).parent / "fractale"), *words]
