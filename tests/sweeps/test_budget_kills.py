"""The budget of a sweep while its driver and its workers are killed: the sums stay exact."""

from __future__ import annotations

import os
import random
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from counts import FULL
from fractale.sweeps.budget import SWEEP_LIMITS, used_by
from fractale.sweeps.record import SweepRecord
from fractale.testing import ModelRequest, ModelServer, Reply
from sweep_processes import SweepProcesses, lines_of, new_sweep, now, runs_of

KILLS = 200 if FULL else 6
"""How many processes are killed in all."""

AT_ONCE = 3
"""How many of them while one sweep goes on."""

ROWS = 9
TOKENS = 40
"""Of one call of the model."""

TOOLS = '''
import time

def look(what: str) -> dict:
    """Look at something."""
    time.sleep(0.02)
    return {"seen": what}
'''
PROMPTS = '''
def say(what: str) -> str:
    """Say something."""
    return f"say {what}"
'''
REGISTRY = """
tools:
  - {path: budget_tools.look, annotations: {readOnlyHint: true}}
prompts:
  - path: budget_prompts.say
"""
PLAN = """
name: spend
inputs: {x: 1}
limits: {tokens: 100, node_hours: 0.05, jobs: 2}
steps:
  - {name: first, tool: look, inputs: {what: "x{{ inputs.x }}"}}
  - {name: ask, prompt: say, allow_tools: false, inputs: {what: "x{{ inputs.x }}"}}
  - name: work
    when: inputs.x % 4 == 0
    job: {command: [sleep, "0.1"], time: 1m, scheduler: local}
  - {name: again, prompt: say, allow_tools: false, inputs: {what: "{{ inputs.x }} again"}}
"""
LIMITS = {"tokens": 100 * (ROWS - 2), "node_hours": 0.2, "jobs": 2 * ROWS}
"""Not enough for all rows together if each used what it may."""


def answer(request: ModelRequest) -> Reply:
    del request
    return Reply(text="yes", input_tokens=TOKENS - 10, output_tokens=10, delay=0.03)


@pytest.fixture(scope="module")
def rig(sweeping: SweepProcesses) -> Iterator[tuple[SweepProcesses, ModelServer]]:
    with ModelServer(answer) as server:
        yield sweeping, server


class Killing:
    """One sweep, whose processes are killed at random times until it ends."""

    def __init__(
        self, folder: Path, processes: SweepProcesses, server: ModelServer, chance: random.Random
    ) -> None:
        self.chance = chance
        self.processes = processes
        folder.mkdir()
        for name, text in (
            ("budget_tools.py", TOOLS),
            ("budget_prompts.py", PROMPTS),
            ("tools.yaml", REGISTRY),
        ):
            (folder / name).write_text(text)
        self.record = new_sweep(
            folder,
            PLAN,
            [{"x": x} for x in range(ROWS)],
            limits=LIMITS,
            options={
                "registries": [str(folder / "tools.yaml")],
                "model": "openai:scripted",
                "yes": True,
                "trusted": True,
            },
        )
        self.environment = {
            **{n: v for n, v in os.environ.items() if not n.startswith(("FRACTALE_", "COV"))},
            "OPENAI_BASE_URL": server.openai_url,
            "OPENAI_API_KEY": "k-1234567890",
            "HOME": str(folder),
            "FRACTALE_TRUST_PROJECT": "1",
            "FRACTALE_POLL_SECONDS": "0.1",
        }
        self.killed = Counter[str]()

    def drive(self) -> subprocess.Popen[str]:
        return self.processes.start_driver(self.record, workers=2, env=self.environment)

    def to_end(self, kills: int) -> None:
        """Drive the sweep to its end; kill this many processes before."""
        driver = self.drive()
        while kills:
            time.sleep(self.chance.uniform(0.05, 0.7))
            if driver.poll() is not None:
                if now(self.record).counts == {"success": ROWS}:
                    break
                driver = self.drive()
                continue
            role = self.chance.choice(("driver", "worker", "worker"))
            if found := self.processes.alive(role):
                self.processes.kill(self.chance.choice(found))
                self.killed[role] += 1
                kills -= 1
            self.check_so_far()
            if role == "driver" and found:
                driver.wait(60)
                driver = self.drive()  # while the workers of the other one still end
        for _ in range(10):
            try:
                out, _ = driver.communicate(timeout=120)
            except subprocess.TimeoutExpired as error:
                raise AssertionError(self.processes.stacks()) from error
            view = now(self.record)
            if view.counts == {"success": ROWS}:
                return
            if view.status == "limit":
                self.raise_limit(str(view.reached))
            driver = self.drive()
        raise AssertionError(f"the sweep never ends: {now(self.record)} {out}")

    def raise_limit(self, name: str) -> None:
        """Raise the limit that the sweep reached, by the most that one run may use."""
        assert name == "tokens"
        head = self.record.read_head()
        self.record.write_head({**head, "limits": {**head["limits"], name: 100 * ROWS}})

    def check_so_far(self) -> None:
        """At any moment, what was used and what is reserved are within the limits."""
        used = sums(self.record)  # first: runs continue meanwhile
        for limit in now(self.record).limits:
            assert used[limit.name] <= limit.used + limit.reserved <= limit.limit, limit

    def check_end(self) -> None:
        """What the ledger has is the sum of what the records of the runs have."""
        view, used = now(self.record), sums(self.record)
        assert {each.name: (each.used, each.reserved) for each in view.limits} == {
            name: (used[name], 0) for name in SWEEP_LIMITS if name in LIMITS
        }
        assert used["tokens"] == 2 * TOKENS * ROWS
        assert used["jobs"] == len(range(0, ROWS, 4))
        lines = [line for line in lines_of(self.record) if line["is"] == "ended"]
        ends = Counter(line["run"] for line in lines)
        twice = [line for line in lines if ends[line["run"]] > 1]
        assert len(ends) == ROWS
        assert not twice


def sums(record: SweepRecord) -> dict[str, float]:
    """What all runs of a sweep have used, by their records."""
    each: list[dict[str, Any]] = [used_by(run) for run in runs_of(record)]
    return {name: round(sum(used[name] for used in each), 9) for name in SWEEP_LIMITS}


def test_the_sums_are_exact_however_often_a_driver_or_a_worker_is_killed(
    tmp_path: Path, rig: tuple[SweepProcesses, ModelServer]
) -> None:
    seed = random.randrange(10**6) if FULL else 17
    print(f"seed {seed}")
    chance, killed, number = random.Random(seed), Counter[str](), 0
    while killed.total() < KILLS:
        killing = Killing(tmp_path / str(number), *rig, chance)
        killing.to_end(min(AT_ONCE, KILLS - killed.total()))
        killing.check_end()
        killed += killing.killed
        number += 1
    print(f"{number} sweeps, killed {dict(killed)}")
