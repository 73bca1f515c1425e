"""SIGTERM and SIGUSR1 (as Slurm sends before a time limit) let a step end, and the run goes on."""

from __future__ import annotations

import os
import signal

import pytest

from held import ended, project, wait_until

FULL = bool(os.environ.get("FRACTALE_FAULTS"))
STEPS = {
    "tool": ("tool: change, inputs: {what: s}", ["s"], 0),
    "prompt": ("prompt: expert, allow_tools: false, inputs: {topic: MPI}", [], 1),
    "agent": ("type: agent, instruction: WORK, tools: [change]", ["by the agent"], 2),
    "foreach": (
        'tool: change, inputs: {what: "s{{ item }}"}, foreach: "range(3) | list"',
        ["s0", "s1", "s2"],
        0,
    ),
    "parallel": (
        "parallel: [{name: a, tool: change, inputs: {what: s}},"
        " {name: b, tool: change, inputs: {what: t}}]",
        ["s", "t"],
        0,
    ),
    "draft": ("type: plan, instruction: DRAFT, tools: [change], approve: never", ["drafted"], 1),
}
"""A step of each kind, what it changes, and how often it asks the model."""
SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
EVERY = [(kind, number) for kind in STEPS for number in SIGNALS]
SOME = [(kind, SIGNALS[i % 2]) for i, kind in enumerate(STEPS)]


@pytest.mark.parametrize(("kind", "number"), EVERY if FULL else SOME)
def test_a_signal_lets_the_step_end_and_the_run_goes_on(tmp_path, processes, kind, number):
    step, changes, asked = STEPS[kind]
    plan = f"""
name: p
steps:
  - {{name: before, tool: change, inputs: {{what: before}}}}
  - {{name: s, {step}}}
  - {{name: after, tool: change, inputs: {{what: after}}}}
"""
    with project(tmp_path, processes) as held:
        in_model = asked > 0
        if in_model:
            held.hold_model()
        else:
            held.hold(changes[-1])
        process = held.run(plan)
        wait_until(held.held.is_set if in_model else held.is_held(changes[-1]), process)
        process.send_signal(number)
        if in_model:
            held.release_model()
        else:
            held.release(changes[-1])
        last = ended(process, 75)
        assert last["status"] == "stopped"
        assert "after" not in held.changes()
        assert last["next"] == [f"fractale resume {last['run']}"]
        assert ended(held.start("resume", "-1", "--yes"), 0)["status"] == "success"
        assert sorted(held.changes()) == sorted(["before", *changes, "after"])
        assert held.asked == asked, "the model was asked again for what it had answered"
