"""A run that was killed and went on is replayed as one; one that did not, as far as it came."""

from __future__ import annotations

import asyncio
import json
import os
import random
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from fractale.record.recordings import open_recording
from fractale.replaying.replay import Replayed, replay
from fractale.replaying.suite import agents_of
from fractale.settings import Settings
from fractale.testing import ModelServer
from kill_plan import model
from killed import Killed, kill_at
from replays import trusting

FULL = bool(os.environ.get("FRACTALE_FAULTS"))
STEPS = ["first", "ask", "use", "work", "many", "approved", "both", "drafted", "judged", "last"]
AT = [(step, when) for step in STEPS for when in ("before", "inside", "after")]
SOME = [("work", "inside"), ("many", "inside"), ("drafted", "inside"), ("approved", "before")]


@pytest.fixture
def killed(tmp_path: Path, processes):
    with ModelServer(model) as server:
        yield Killed(tmp_path, server, processes, None)


def replayed(killed: Killed) -> Replayed:
    (folder,) = killed.folder.glob(".fractale/runs/*")
    calls = killed.folder / "calls.txt"
    before = (calls.read_text() if calls.exists() else "", len(killed.server.requests))
    with open_recording(
        folder, settings=trusting(Settings(state_dir=killed.folder / ".fractale"))
    ) as recording:
        plan = recording.plan_then()
        agents, notes = agents_of(recording, plan)
        found = asyncio.run(replay(recording, Settings(), plan=plan, agents=agents))
    assert not notes
    assert (calls.read_text() if calls.exists() else "", len(killed.server.requests)) == before
    return found


def last_event(killed: Killed) -> dict[str, Any]:
    (events,) = killed.folder.glob(".fractale/runs/*/events.jsonl")
    return json.loads(events.read_text().splitlines()[-1])


def status_of(killed: Killed) -> str:
    """A killed run may have come as far as its next question, and ended there by itself."""
    last = last_event(killed)
    return last["status"] if last["event"] == "run_finished" else "killed"


@pytest.mark.parametrize(("step", "when"), AT if FULL else SOME)
def test_a_run_that_was_killed_and_resumed_is_replayed_as_one(killed, step, when):
    kill_at(killed, step, when)
    cut = replayed(killed)
    assert cut.equal, cut.divergence
    assert cut.status == status_of(killed)
    killed.check(killed.finish())
    whole = replayed(killed)
    assert whole.equal, whole.divergence
    assert (whole.events, whole.ends, whole.status) == (whole.of, "", "success")
    assert whole.of > cut.events


@pytest.mark.parametrize("seed", range(40 if FULL else 2))
def test_so_it_is_wherever_it_was_killed(killed, seed):
    process = killed.run()
    threading.Timer(random.Random(seed).uniform(0.3, 3.0), process.kill).start()
    process.communicate(timeout=120)
    for _ in range(600):
        if list(killed.folder.glob(".fractale/runs/*/events.jsonl")):
            break
        killed.run().communicate(timeout=120)  # killed before there was a run
        time.sleep(0.05)
    last = last_event(killed)
    if last["event"] == "run_finished":
        killed.asked = last["waiting"]
    cut = replayed(killed)
    assert cut.equal, cut.divergence
    killed.check(killed.finish())
    whole = replayed(killed)
    assert whole.equal, whole.divergence
    assert (whole.events, whole.ends) == (whole.of, "")
