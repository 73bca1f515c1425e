"""Folders of jobs: they go with their runs, or by age, and never before the job is over."""

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from fractale.cli import run_command as fractale
from fractale.jobs import Jobs, JobSpec
from fractale.jobs.removal import names_in
from fractale.record.pruning import PruneRule, prune
from fractale.record.snapshot import SHARED
from fractale.schedulers.folder import JobFolder, facts_of, name_of
from fractale.store.run_record import RunRecords
from fractale.testing import FakeToolServer
from job_parts import SOON, until

DAY = 86_400.0
REGISTRY = Path(__file__).parents[2] / "registries" / "jobs.yaml"
STEP = """
    name: one
    steps: [{name: go, job: {command: "%s", scheduler: local}}]
    outputs: {file: "{{ steps.go.outputs.log_file }}"}
    """
TOOLS = """
    name: tools
    steps:
      - {name: submit, tool: job_submit, inputs: {command: [echo, x], key: %s, scheduler: local}}
      - {name: wait, tool: job_wait, inputs: {key: %s, seconds: 60}}
    """


@pytest.fixture
def settings(settings, monkeypatch):
    monkeypatch.setenv("FRACTALE_STATE_DIR", str(settings.state_dir))
    return replace(settings, environment=dict(os.environ))


class Yard:
    """The jobs of a state folder, and a way to make old ones."""

    def __init__(self, settings) -> None:
        self.settings = settings
        self.root = settings.state_dir / "jobs"
        self.jobs = Jobs(self.root, dict(os.environ), "local")

    async def job(self, key: str, *command: str, old: float = 0.0) -> JobFolder:
        spec = JobSpec(name="test", folder=self.root.parent, command=command or ("true",))
        self.root.parent.mkdir(parents=True, exist_ok=True)
        handle = await self.jobs.submit(spec, key=key)
        folder = JobFolder(handle.job_dir)
        if not command:
            await self.jobs.wait(handle, timeout=120, intervals=SOON)
            minder = Path("/proc", facts_of(folder.text("minder"))["id"])
            await until(lambda: folder.marked("minded.") is not None and not minder.exists())
            self.age(folder, old)
        return folder

    def age(self, folder: JobFolder, seconds: float) -> None:
        then = time.time() - seconds
        for path in (*folder.path.iterdir(), folder.path):
            os.utime(path, (then, then))

    async def end(self, key: str) -> None:
        handle = await self.jobs.find(key)
        await self.jobs.cancel(handle)

    def left(self) -> set[str]:
        return {path.name for path in self.root.iterdir()} - {".local"}

    async def prune(self, *, dry_run: bool = False, now: float | None = None, **rule):
        return await prune(self.settings, PruneRule(**rule), dry_run=dry_run, now=now)


@pytest.fixture
def yard(settings) -> Yard:
    return Yard(settings)


async def test_jobs_of_no_run_go_by_age_and_what_goes_on_stays(yard):
    old, new = await yard.job("old", old=3 * DAY), await yard.job("new")
    running = await yard.job("running", "sleep", "300")
    try:
        for dry_run in (True, False):
            report = await yard.prune(older_than=2 * DAY, dry_run=dry_run)
            assert (report.jobs, report.jobs_left) == (1, 0)
            assert report.freed == report.job_bytes > 100
            assert old.path.exists() is dry_run
        # Whatever the age: it is not over.
        report = await yard.prune(older_than=0, now=time.time() + 9 * DAY, force=True)
        assert (report.jobs, report.jobs_left) == (1, 1)
        assert yard.left() == {running.path.name}
        assert not new.path.exists()
    finally:
        await yard.end("running")


async def test_without_an_age_jobs_of_no_run_stay(yard):
    await yard.job("old", old=300 * DAY)
    report = await yard.prune(keep=0)
    assert (report.jobs, yard.left()) == (0, {name_of("old")})


async def test_a_job_of_which_nothing_shows_the_end_needs_force(yard):
    lost = await yard.job("lost")
    for path in (*lost.path.glob("ended.*"), *lost.path.glob("minded.*")):
        path.unlink()
    yard.age(lost, 3 * DAY)
    report = await yard.prune(older_than=DAY)
    assert (report.jobs, report.jobs_left) == (0, 1)
    assert (await yard.prune(older_than=DAY, force=True)).jobs == 1
    assert yard.left() == set()


async def test_a_submission_that_was_cut_off_stays_and_a_refused_one_goes(yard):
    for key in ("refused", "cut"):
        folder = JobFolder.of(yard.root, key)
        folder.make()
        if key == "cut":
            folder.write_intent(JobSpec(name=key, folder=yard.root), key, "slurm")
        yard.age(folder, 3 * DAY)
    report = await yard.prune(older_than=DAY)
    assert (report.jobs, report.jobs_left) == (1, 1)
    assert yard.left() == {name_of("cut")}


async def test_a_job_that_somebody_submits_stays(yard):
    held = await yard.job("held", old=3 * DAY)
    async with held.locked():
        assert (await yard.prune(older_than=DAY)).jobs == 0
        assert yard.left() == {name_of("held")}
    assert (await yard.prune(older_than=DAY)).jobs == 1


async def test_a_removal_that_was_cut_off_is_finished(yard):
    folder = await yard.job("half")
    folder.path.rename(yard.root / f".removed.{folder.path.name}.1.1")
    assert (await yard.prune(keep=9)).job_bytes > 100
    assert yard.left() == set()


async def test_a_job_of_a_tool_goes_with_the_last_run_that_speaks_of_it(yard, run_plan):
    for run, key in (("one", "shared"), ("two", "shared"), ("three", "own")):
        seen = await run_plan(
            TOOLS % (key, key),
            registries=[REGISTRY],
            keep=True,
            run_id=run,
            settings=yard.settings,
        )
        assert seen.status == "success", seen.result
    await yard.job("nobody's", old=3 * DAY)
    assert yard.left() == {name_of(key) for key in ("shared", "own", "nobody's")}
    # A run that stays may still ask for its job, however old that is.
    yard.age(JobFolder.of(yard.root, "own"), 300 * DAY)
    for dry_run in (True, False):
        report = await yard.prune(keep=1, dry_run=dry_run)
        assert [run.id for run in report.removed] == ["two", "one"]
        assert report.jobs == 1
    assert yard.left() == {name_of("own"), name_of("nobody's")}
    report = await yard.prune(older_than=0, now=time.time() + DAY)
    assert (report.runs, report.jobs, yard.left()) == (0, 2, set())


async def test_a_run_whose_job_goes_on_stays_even_by_force(yard, run_plan):
    task = asyncio.create_task(
        run_plan(STEP % "sleep 300", keep=True, run_id="goes-on", settings=yard.settings)
    )
    jobs = RunRecords(yard.settings.state_dir).at("goes-on").path / "jobs"
    try:
        # It may have begun before it is on record that it was submitted.
        for sign in ("started", "handle.json"):
            await until(lambda sign=sign: bool(list(jobs.glob(f"fr*/{sign}"))))
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    folder = JobFolder(next(jobs.glob("fr*")))
    own = Jobs(jobs, dict(os.environ), "local")
    for dry_run in (True, False):
        report = await yard.prune(keep=0, force=True, dry_run=dry_run)
        assert [run.id for run in report.spared] == ["goes-on"]
        assert report.spared[0].reason.startswith("its job runs on ")
    await own.cancel(folder.handle())
    report = await yard.prune(keep=0, force=True)
    assert [run.id for run in report.removed] == ["goes-on"]
    assert not jobs.exists()


async def test_listings_go_with_the_last_run_that_shares_them(settings, run_plan, yard):
    for run, tool in (("one", "a"), ("two", "a"), ("three", "b")):
        tools = FakeToolServer()
        tools.answer(tool, {"x": 1})
        plan = f"""
            name: p
            steps: [{{name: s, tool: {tool}}}]
            """
        await run_plan(plan, tools=tools, keep=True, run_id=run)
    shared = settings.state_dir / SHARED
    assert len(list(shared.iterdir())) == 4, "tools and conditions, of two kinds of runs"
    for dry_run in (True, False):
        report = await yard.prune(keep=1, dry_run=dry_run)
        assert (len(report.removed), report.listings) == (2, 2)
        assert report.listing_bytes > 0
    assert len(list(shared.iterdir())) == 2
    assert (await yard.prune(keep=1)).listings == 0
    assert (await yard.prune(keep=0)).listings == 2
    assert not list(shared.iterdir())


async def test_a_run_that_keeps_no_record_leaves_no_folders_of_jobs(run_plan, settings):
    seen = await run_plan(STEP % "echo done", settings=settings)
    assert seen.status == "success"
    assert not list((settings.state_dir / "jobs").iterdir())
    seen = await run_plan(STEP % "false", settings=settings)
    assert (seen.status, "exit code 1" in seen.result.error) == ("failed", True)
    assert not list((settings.state_dir / "jobs").iterdir())


async def test_where_a_job_goes_on_such_a_run_leaves_its_folder(run_plan, yard):
    task = asyncio.create_task(run_plan(STEP % "sleep 300", settings=yard.settings))
    try:
        for sign in ("started", "handle.json"):
            await until(lambda sign=sign: bool(list(yard.root.glob(f"fr*/{sign}"))))
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    folder = JobFolder(next(yard.root.glob("fr*")))
    status = await yard.jobs.cancel(folder.handle())
    assert status.state == "cancelled"


async def test_the_command_says_how_many_and_how_much(yard, capsys):
    await yard.job("old", old=3 * DAY)
    words = ["runs", "prune", "--older-than", "2d"]
    assert await asyncio.to_thread(fractale, words) == 0
    said = capsys.readouterr().out
    assert "0 runs removed" in said
    assert ", 1 job directory of " in said
    assert yard.left() == set()


def test_jobs_are_known_by_their_folder_or_by_their_key():
    key = 'a "quoted" key'
    texts = [b'"log_file": "/x/jobs/fr0123456789abc/log"', b'{"key": "a \\"quoted\\" key"}']
    assert names_in(texts) == {"fr0123456789abc", name_of(key)}
    assert names_in([b"fr0123456789abcdef", b"xfr0123456789abc"]) == set()
