"""A run that is killed at any moment goes on to the same end, and does nothing twice.

`make test-real` kills at a sample of the moments; `make test-faults` at all of them, and at 200
random ones, on SQLite and on PostgreSQL.
"""

from __future__ import annotations

import json
import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from forked import Forking, forking
from fractale.testing import ModelServer
from kill_plan import STEPS, model
from killed import Killed, kill_at
from servers.postgres import new_database

FULL = bool(os.environ.get("FRACTALE_FAULTS"))
MOMENTS = [(step, when) for step in STEPS for when in ("before", "inside", "after")]
STORES = ("sqlite", "postgresql")
SAMPLE = [
    ("sqlite", "work", "inside"),
    ("sqlite", "drafted", "inside"),
    ("sqlite", "last", "after"),
    ("postgresql", "many", "inside"),
    ("postgresql", "both", "before"),
]
EVERY = [(store, step, when) for store in STORES for step, when in MOMENTS]
RANDOM = [(store, seed) for store in STORES for seed in range(200)]
SOME = [("sqlite", 0), ("sqlite", 1), ("postgresql", 2)]


@pytest.fixture
def killed(
    tmp_path: Path, store: str, processes: Forking, request: pytest.FixtureRequest
) -> Iterator[Killed]:
    url = None
    if store == "postgresql":
        url = new_database(request.getfixturevalue("postgres"))
    with ModelServer(model) as server:
        yield Killed(tmp_path, server, processes, url)


@pytest.mark.parametrize(("store", "step", "when"), EVERY if FULL else SAMPLE)
def test_a_kill_at_a_step_loses_nothing_and_repeats_nothing(killed, step, when):
    kill_at(killed, step, when)
    killed.check(killed.finish())


@pytest.fixture(scope="module")
def seconds(tmp_path_factory: pytest.TempPathFactory) -> float:
    """How long a run takes here that nothing disturbs."""
    with ModelServer(model) as server:
        run = Killed(tmp_path_factory.mktemp("undisturbed"), server, forking(), None)
        started = time.monotonic()
        _, err = run.run().communicate()
        assert "Traceback" not in err, err
        run.check(run.finish())
        return time.monotonic() - started


@pytest.mark.parametrize(("store", "seed"), RANDOM if FULL else SOME)
def test_a_kill_at_a_random_moment_loses_nothing_and_repeats_nothing(killed, seed, seconds):
    left = random.Random(seed).uniform(0.05, 1.0) * seconds
    process = killed.run()
    while True:
        started = time.monotonic()
        timer = threading.Timer(left, process.kill)
        timer.start()
        out, err = process.communicate(timeout=120)
        timer.cancel()
        assert "Traceback" not in err, err
        left -= time.monotonic() - started
        if process.returncode in (-signal.SIGKILL, 0):
            break
        assert process.returncode == 4, out + err
        killed.asked = json.loads(out.splitlines()[-1])["waiting"]
        process = killed.start("resume", "-1", *killed.answers())
    killed.asked = []
    if not list(killed.folder.glob(".fractale/runs/*/run.json")):
        killed.run().communicate()  # killed before there was a run
    killed.check(killed.finish())
