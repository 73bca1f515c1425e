"""Sweeps from Python: what a caller gives, and what it cannot give."""

from __future__ import annotations

import inspect
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import fractale
from fractale import InputError, PlanError, SweepError, UsageError
from fractale.settings import Settings
from fractale.sweeps.invocation import SweepKeywords

PLAN = """
name: doubles
inputs: {n: {type: integer, default: 1}, key: {secret: true}}
steps: [{name: one, set: {z: "{{ inputs.n * 2 }}"}}]
outputs: {z: "{{ values.z }}"}
"""


READS = """
name: reads
inputs: {n: {type: integer, default: 1}, key: {secret: true}}
steps:
  - {name: base, tool: base}
  - {name: add, set: {z: "{{ inputs.n + steps.base.outputs.n }}"}}
outputs: {z: "{{ values.z }}"}
"""
TOOLS = """
from pathlib import Path


def base() -> dict:
    \"\"\"A number that does not depend on what varies.\"\"\"
    with Path(__file__).with_name("calls.txt").open("a") as file:
        file.write("call\\n")
    return {"n": 100}
"""


@pytest.fixture
def settings(tmp_path, monkeypatch) -> Settings:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p.yaml").write_text(PLAN)
    (tmp_path / "sweep.yaml").write_text("plan: p.yaml\nover: {n: 1..2}\nmerit: z\n")
    (tmp_path / "sweep_tools.py").write_text(TOOLS)
    (tmp_path / "tools.yaml").write_text(
        "tools: [{path: sweep_tools.base, annotations: {readOnlyHint: true, openWorldHint: false}}]"
    )
    environment = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin", "PYTHONPATH": str(tmp_path)}
    return replace(Settings(), state_dir=tmp_path / "state", environment=environment)


async def test_a_sweep_returns_its_rows_and_makes_equal_calls_once(settings, tmp_path):
    heard: list[str] = []
    view = await fractale.asweep(
        READS,
        over={"n": [3, 4]},
        registries=["tools.yaml"],
        reuse=True,
        secrets={"key": "canary-key-1"},
        max_parallel=1,
        sweep_id="two",
        on_row=lambda line, counts: heard.append(f"{line['is']} {sum(counts.values())}"),
        settings=settings,
    )
    assert (view.id, view.status, view.varied) == ("two", "success", ("n",))
    assert [(row.run, dict(row.outputs)) for row in view.rows] == [
        ("two.0", {"z": 103}),
        ("two.1", {"z": 104}),
    ]
    assert (tmp_path / "calls.txt").read_text() == "call\n"
    assert heard == ["started 2", "ended 2"] * 2
    again = await fractale.aresume_sweep("two", settings=settings)
    assert again.rows == view.rows
    runs = [row.id for row in fractale.list_runs(settings=settings)]
    assert sorted(runs) == ["two.0", "two.1"]
    with pytest.raises(UsageError, match="there is a sweep `two` already"):
        await fractale.asweep(PLAN, over={"n": [1]}, sweep_id="two", settings=settings)


ODD: dict[str, Any] = {
    "over": {"n": object()},
    "table": 3,
    "sample": 0,
    "seed": -1,
    "algorithm": "tpe",
    "inputs": {"m": 1},
    "on": "nowhere",
    "max_parallel": True,
    "limits": {"tokens": "many"},
    "run_limits": {"tokns": 3},
    "answers": {"nobody": "yes"},
    "yes": "yes",
    "registries": [3],
    "agents": [object()],
    "model": object(),
    "secrets": {"kei": "x"},
    "merit": "energy",
    "reuse": "always",
    "sweep_id": "a.b",
    "on_row": 3,
    "settings": {"state_dir": "x"},
}


@pytest.mark.parametrize("name", SweepKeywords.__annotations__)
async def test_a_keyword_that_cannot_be_used_is_named_before_anything_starts(settings, name):
    given = {"over": {"n": [1, 2]}, "settings": settings, "secrets": {"key": "k-123456"}}
    with pytest.raises((UsageError, InputError)) as caught:
        await fractale.asweep(PLAN, **{**given, name: ODD[name]})
    assert caught.value.hint
    assert not settings.state_dir.exists()


@pytest.mark.parametrize("name", SweepKeywords.__annotations__)
async def test_a_keyword_of_another_type_is_an_error_of_ours(settings, name):
    given = {"over": {"n": [1, 2]}, "settings": settings, "secrets": {"key": "k-123456"}}
    for odd in (object(), 3.5, b"x", type):
        with pytest.raises((UsageError, PlanError)):
            await fractale.asweep(PLAN, **{**given, name: odd, "sweep_id": "a.b"})
    assert not settings.state_dir.exists()


async def test_settings_that_workers_would_not_get_are_refused(settings):
    made = replace(settings, max_attempts=3, openai_base_url="http://127.0.0.1:1")
    with pytest.raises(UsageError, match="`max_attempts`, `openai_base_url`"):
        await fractale.asweep(PLAN, over={"n": [1, 2]}, settings=made)
    assert not settings.state_dir.exists()


async def test_an_unknown_keyword_is_a_type_error_with_a_suggestion(settings):
    with pytest.raises(TypeError, match="did you mean `over`"):
        await fractale.asweep(PLAN, overr={"n": [1]}, settings=settings)


async def test_a_missing_secret_is_named_before_anything_is_written(settings):
    with pytest.raises(InputError, match="FRACTALE_INPUT_KEY"):
        await fractale.asweep(PLAN, over={"n": [1, 2]}, settings=settings)
    assert not settings.state_dir.exists()


async def test_a_sweep_file_is_read_and_its_plan_is_beside_it(settings, tmp_path):
    with pytest.raises(SweepError, match="varies, and also has one value"):
        await fractale.asweep(tmp_path / "sweep.yaml", inputs={"n": 1}, settings=settings)
    with pytest.raises(PlanError, match="cannot be read"):
        await fractale.asweep(tmp_path / "none.yaml", over={"n": [1]}, settings=settings)


async def test_the_twin_refuses_to_wait_inside_an_event_loop(settings):
    with pytest.raises(UsageError, match=r"await fractale\.asweep"):
        fractale.sweep(PLAN, over={"n": [1]}, settings=settings)
    with pytest.raises(UsageError, match=r"await fractale\.aresume_sweep"):
        fractale.resume_sweep("x", settings=settings)


async def test_resuming_what_is_no_sweep_says_so(settings):
    with pytest.raises(UsageError, match="sweep `none` not found"):
        await fractale.aresume_sweep("none", settings=settings)
    with pytest.raises(UsageError, match="`sweep_id` cannot be"):
        await fractale.aresume_sweep(3, settings=settings)  # type: ignore[arg-type]


def test_every_keyword_is_described():
    described = inspect.getdoc(SweepKeywords) or ""
    missing = [name for name in SweepKeywords.__annotations__ if name not in described]
    assert missing == []
    assert Path(inspect.getfile(SweepKeywords)).name == "invocation.py"
