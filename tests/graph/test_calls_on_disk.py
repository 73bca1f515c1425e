"""A call that must not be repeated is made when its intent is on the disk, and only then."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from fractale.errors import StoreError
from fractale.graph.call import Attempt, Codec, once
from fractale.graph.context import Dependencies, RunContext
from fractale.plan.model import Step
from fractale.store.journal import Call, CallSite, FileJournal
from fractale.store.outputs import MemoryOutputs
from fractale.testing import FakeToolServer

SITE = CallSite(task="t", number=1, tries=1, step="s", attempt=1)
CHANGES = Call(kind="tool", name="change", digest="d")
READS = Call(kind="tool", name="read", digest="d", safe=True)


class Plain(Codec[str]):
    """A call whose result is a text."""

    def dump(self, result: str, seconds: float | None) -> dict[str, Any]:
        return {"text": result}

    def load(self, data: Mapping[str, Any]) -> str:
        return data["text"]


class Disk:
    """A disk that a sync waits for until it is let go, and that may be broken."""

    def __init__(self) -> None:
        self.free = threading.Event()
        self.fault: OSError | None = None

    def __call__(self, _descriptor: int) -> None:
        self.free.wait(30)
        if self.fault:
            raise self.fault


@pytest.fixture
def disk() -> Disk:
    return Disk()


@pytest.fixture
def attempt(tmp_path: Path, disk: Disk) -> Attempt:
    context = RunContext()
    context.journal = FileJournal(tmp_path / "journal.jsonl", sync=disk)
    deps = Dependencies(toolbox=FakeToolServer(), outputs=MemoryOutputs())
    step = Step(name="s", kind="tool", target="x")
    return Attempt(step=step, path="s", deps=deps, context=context, config={})


@pytest.fixture
def made() -> list[str]:
    return []


def calling(attempt: Attempt, call: Call, made: list[str]) -> asyncio.Task[str]:
    async def make() -> str:
        made.append(call.name)
        return "done"

    return asyncio.create_task(once(attempt, SITE, call, make, Plain(attempt, {})))


async def test_it_waits_for_the_disk(attempt, disk, made):
    task = calling(attempt, CHANGES, made)
    await asyncio.sleep(0.1)
    assert not made
    disk.free.set()
    assert await task == "done"
    assert made == ["change"]


async def test_a_call_that_reads_does_not_wait(attempt, disk, made):
    assert await calling(attempt, READS, made) == "done"
    disk.free.set()


async def test_one_that_is_cancelled_meanwhile_was_not_made(attempt, disk, made, tmp_path):
    """So a resumed run makes it, and does not ask whether it was made."""
    task = calling(attempt, CHANGES, made)
    await asyncio.sleep(0.1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    disk.free.set()
    attempt.context.journal.close()
    assert not made
    assert FileJournal(tmp_path / "journal.jsonl").find(SITE, CHANGES) is None


async def test_one_whose_intent_cannot_be_synced_is_not_made(attempt, disk, made, tmp_path):
    disk.fault = OSError(5, "Input/output error")
    disk.free.set()
    with pytest.raises(StoreError, match="Input/output error"):
        await calling(attempt, CHANGES, made)
    assert not made
    assert FileJournal(tmp_path / "journal.jsonl").find(SITE, CHANGES) is None
