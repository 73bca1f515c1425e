"""Space stays bounded: old runs go as a whole, what waits or goes on stays."""

from __future__ import annotations

import os
import textwrap
import time

import pytest

from fractale.errors import UsageError
from fractale.record.pruning import PruneRule, prune
from fractale.store.checkpoints import open_checkpoints
from fractale.store.index import RunIndex
from fractale.store.locks import RunLock
from fractale.store.outputs import FileOutputs
from fractale.store.run_record import RunRecords
from fractale.testing import FakeToolServer
from store_runs import config

LARGE = """
    name: large
    steps: [{name: s, tool: t, transitions: {success: two}}, {name: two, tool: t}]
    """
WAITS = """
    name: waits
    steps: [{name: s, tool: t, approve: always}]
    """
DAY = 86_400.0


@pytest.fixture
async def runs(run_plan, tmp_path):
    """Three runs that are done and, between them, one that waits: the latest first."""
    waits = tmp_path / "waits.yaml"
    waits.write_text(textwrap.dedent(WAITS))
    tools = FakeToolServer()
    tools.answer("t", {"text": "x" * 20_000})
    names = []
    for number, plan in enumerate([LARGE, waits, LARGE, LARGE], 1):
        seen = await run_plan(plan, tools=tools, keep=True, run_id=f"run{number}")
        assert seen.status == ("waiting" if plan == waits else "success")
        names.insert(0, seen.result.run)
    return names


async def left(settings) -> dict[str, set[str]]:
    """Which runs have a folder, a row, and checkpoints."""
    with RunIndex(settings.state_dir) as index:
        rows = {row.id for row in index.find()}
    names = RunRecords(settings.state_dir).names()
    async with open_checkpoints(settings.checkpoints) as saver:
        threads = {name for name in names if await saver.aget_tuple(config(name))}
    return {"folders": names, "rows": rows, "threads": threads}


async def pruned(settings, dry_run: bool = False, now: float | None = None, **rule):
    return await prune(settings, PruneRule(**rule), dry_run=dry_run, now=now)


def everywhere(*names: str) -> dict[str, set[str]]:
    return {"folders": set(names), "rows": set(names), "threads": set(names)}


async def test_by_count_all_but_the_latest_go_with_all_that_is_theirs(settings, runs):
    report = await pruned(settings, keep=1)
    assert [run.id for run in report.removed] == ["run3", "run1"]
    assert {run.reason for run in report.removed} == {"not among the latest 1"}
    assert await left(settings) == everywhere("run4", "run2")
    assert report.runs == 2


async def test_a_run_that_waits_stays_unless_forced(settings, runs):
    report = await pruned(settings, keep=0)
    assert [(run.id, run.reason) for run in report.spared] == [("run2", "waiting for s")]
    assert await left(settings) == everywhere("run2")
    report = await pruned(settings, keep=0, force=True)
    assert [run.id for run in report.removed] == ["run2"]
    assert await left(settings) == everywhere()


@pytest.mark.parametrize("force", [False, True])
async def test_a_run_that_a_process_has_stays_whatever_is_said(settings, runs, force):
    with RunLock(RunRecords(settings.state_dir).at("run3")):
        for dry_run in (True, False):
            report = await pruned(settings, dry_run, keep=1, force=force)
            (spared,) = [run for run in report.spared if run.id == "run3"]
            assert f"in use by process {os.getpid()}" in spared.reason
    assert "run3" in (await left(settings))["folders"]


async def test_a_dry_run_tells_the_same_and_removes_nothing(settings, runs):
    told = await pruned(settings, True, keep=1)
    assert await left(settings) == everywhere(*runs)
    done = await pruned(settings, keep=1)
    assert [run.id for run in told.removed] == [run.id for run in done.removed]
    assert told.runs == done.runs
    assert (told.dry_run, done.dry_run) == (True, False)
    assert told.as_dict()["removed"][0]["id"] == "run3"


async def test_by_age(settings, runs):
    assert not (await pruned(settings, older_than=DAY)).removed
    report = await pruned(settings, older_than=DAY, now=time.time() + 2 * DAY)
    assert {run.reason for run in report.removed} == {"too old"}
    assert await left(settings) == everywhere("run2")


async def test_by_size_the_latest_that_fit_together_stay(settings, runs):
    sizes = {r.id: r.bytes for r in (await pruned(settings, True, keep=0, force=True)).removed}
    limit = sizes["run4"] + sizes["run3"]
    before = disk(settings.state_dir)
    report = await pruned(settings, max_bytes=limit, force=True)
    assert [run.id for run in report.removed] == ["run2", "run1"]
    assert report.bytes <= limit
    assert report.freed == sizes["run2"] + sizes["run1"]
    assert disk(settings.state_dir) < before


def disk(folder) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("rule", [{}, {"force": True}, {"keep": -1}, {"older_than": -1.0}])
async def test_a_rule_that_says_nothing_is_refused(rule):
    with pytest.raises(UsageError, match="choose the runs to remove"):
        PruneRule(**rule)


async def test_outputs_that_nothing_refers_to_are_collected(settings, runs):
    folder = RunRecords(settings.state_dir).at("run4")
    outputs = FileOutputs(folder.outputs)
    needed = set(folder.outputs.glob("??/*"))
    assert needed
    orphan = outputs.path(outputs.put({"text": "y" * 5000}))
    cut = orphan.with_suffix(".99.part")
    cut.write_bytes(b"half")
    fresh = outputs.path(outputs.put({"text": "z" * 5000}))
    for path in (*needed, orphan, cut):
        os.utime(path, (1, 1))
    told = await pruned(settings, True, keep=99)
    assert (told.outputs, told.output_bytes) == (2, orphan.stat().st_size + 4)
    assert orphan.exists()
    done = await pruned(settings, keep=99)
    assert done.outputs == 2
    assert not orphan.exists()
    assert not cut.exists()
    # An hour may pass between an output and the checkpoint that refers to it.
    assert set(folder.outputs.glob("??/*")) == needed | {fresh}


async def test_outputs_of_a_run_that_goes_on_are_left_alone(settings, runs):
    folder = RunRecords(settings.state_dir).at("run4")
    outputs = FileOutputs(folder.outputs)
    orphan = outputs.path(outputs.put({"text": "y" * 5000}))
    os.utime(orphan, (1, 1))
    with RunLock(folder):
        assert (await pruned(settings, keep=99)).outputs == 0
    assert orphan.exists()


async def test_what_is_left_can_go_on(settings, runs):
    from fractale.questions import Answers
    from fractale.runs import RunOptions, Runs

    await pruned(settings, keep=0)
    tools = FakeToolServer()
    tools.answer("t", {"text": "y"})
    options = RunOptions(replies=Answers({"s": "yes"}))
    result = await Runs(settings, tools).resume("run2", options)
    assert result.status == "success"


async def test_an_empty_state_folder_has_nothing_to_prune(settings):
    report = await pruned(settings, keep=0)
    assert (report.removed, report.runs, report.freed) == ([], 0, 0)


async def test_checkpoints_of_a_removed_run_are_not_found(settings, runs):
    await pruned(settings, keep=1)
    async with open_checkpoints(settings.checkpoints) as saver:
        assert await saver.aget_tuple(config("run1")) is None
        assert await saver.aget_tuple(config("run4")) is not None
