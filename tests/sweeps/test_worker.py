"""A worker of a sweep: one run after another, resumed if its record exists, never taken over."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import fractale
from fractale.record.history_reader import read_history
from fractale.runs.result import RunResult
from fractale.settings.own_runs import is_own
from fractale.store.locks import RunLock
from fractale.store.run_record import RunRecords
from fractale.sweeps.executors import WorkerLost
from fractale.sweeps.local import PROGRAM
from fractale.sweeps.record import SweepRecord, run_id_of
from fractale.sweeps.task import RunReport, RunTask
from fractale.sweeps.worker import LEAVING, Worker, report_of
from swept import (
    ASKS,
    ONE_TOOL,
    effects,
    made_sweep,
    plan_text,
    project,
    settings_in,
    tool_step,
)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def task_of(record: SweepRecord, row: int = 0, attempt: int = 1, **more: Any) -> RunTask:
    head = record.read_head()
    given: dict[str, Any] = {
        "run": run_id_of(record.sweep_id, row, attempt),
        "sweep": record.sweep_id,
        "row": row,
        "plan": str(record.plan),
        "plan_hash": head["plan_hash"],
        "inputs": {**head["inputs"], **record.read_rows()[row]},
        "directory": head["folder"],
        "state_dir": str(record.state_dir),
        "options": head["options"],
        **more,
    }
    return RunTask(**given)


def environment(here: Path) -> dict[str, str]:
    return {**os.environ, "FRACTALE_STATE_DIR": str(here / "state")}


def test_the_time_of_a_run_has_its_batch_jobs(tmp_path: Path) -> None:
    usage = {"seconds": 0.6, "job_seconds": 6.0, "elapsed": 6.6}
    result = RunResult(run="s.0", status="success", usage=usage)
    assert report_of(result, RunRecords(tmp_path).at("s.0")).seconds == 6.6


async def test_a_task_is_a_run_with_a_record_that_names_the_sweep_and_the_row(here: Path) -> None:
    record = made_sweep(here, [21])
    async with Worker(environment(here)) as worker:
        report = await worker.perform(task_of(record))

    assert report.status == "success"
    assert report.outputs == {"y": 42}
    run = RunRecords(record.state_dir).at("s.0")
    head = run.read_head()
    assert head["sweep"] == {"id": "s", "row": 0, "attempt": 1}
    assert is_own(head, environment(here))
    assert read_history(run).status == "success"
    assert effects(here) == ["double 21"]


async def test_a_task_that_comes_again_reports_the_end_and_calls_nothing(here: Path) -> None:
    record = made_sweep(here, [21])
    async with Worker(environment(here)) as worker:
        first = await worker.perform(task_of(record))
    async with Worker(environment(here)) as worker:
        again = await worker.perform(task_of(record))

    assert again == replace(first, seconds=again.seconds)
    assert effects(here) == ["double 21"]


async def test_a_failed_run_stays_failed_if_its_task_comes_again(here: Path) -> None:
    record = made_sweep(here, [1], plan_text(tool_step("odd")))
    async with Worker(environment(here)) as worker:
        first = await worker.perform(task_of(record))
        (here / "mended").touch()
        again = await worker.perform(task_of(record))

    assert first.status == again.status == "failed"
    assert first.failed_at == again.failed_at == "last"
    assert "1 is odd" in (again.error or "")
    assert effects(here) == ["odd 1"]


async def test_many_runs_of_one_worker_share_nothing_that_shows(here: Path) -> None:
    record = made_sweep(here, [1, 2, 3], plan_text(tool_step("odd")))
    async with Worker(environment(here)) as worker:
        found = [await worker.perform(task_of(record, row)) for row in range(3)]

    assert [report.status for report in found] == ["failed", "success", "failed"]
    assert [report.outputs.get("y") for report in found] == [None, 4, None]
    assert [report.run for report in found] == ["s.0", "s.1", "s.2"]


async def test_a_retry_is_another_run(here: Path) -> None:
    record = made_sweep(here, [1], plan_text(tool_step("odd")))
    async with Worker(environment(here)) as worker:
        await worker.perform(task_of(record))
        (here / "mended").touch()
        report = await worker.perform(task_of(record, attempt=2))

    assert (report.run, report.status) == ("s.0.2", "success")
    assert RunRecords(record.state_dir).at("s.0.2").read_head()["sweep"]["attempt"] == 2


async def test_a_run_of_that_id_that_is_not_of_the_row_is_never_taken_over(here: Path) -> None:
    record = made_sweep(here, [21])
    settings = settings_in(here)
    other = await fractale.arun(
        str(record.plan),
        {"x": 1},
        run_id="s.0",
        keep=True,
        registries=[here / "tools.yaml"],
        settings=settings,
    )
    before = (other.record / "events.jsonl").read_bytes()  # type: ignore[operator]
    async with Worker(environment(here)) as worker:
        report = await worker.perform(task_of(record))

    assert report.status == "failed"
    assert report.error == "run s.0 exists, and is not a run of this row"
    assert (other.record / "events.jsonl").read_bytes() == before  # type: ignore[operator]
    assert effects(here) == ["double 1"]


async def test_a_directory_that_is_not_the_users_own_is_not_used(
    here: Path, tmp_path: Path
) -> None:
    record = made_sweep(here, [21, 22])
    runs = record.state_dir / "runs"
    runs.mkdir(mode=0o700, exist_ok=True)
    (elsewhere := tmp_path / "elsewhere").mkdir()
    (runs / "s.0").symlink_to(elsewhere)
    (runs / "s.1").mkdir()
    (runs / "s.1").chmod(0o777)
    async with Worker(environment(here)) as worker:
        linked = await worker.perform(task_of(record, 0))
        shared = await worker.perform(task_of(record, 1))

    assert (linked.status, shared.status) == ("failed", "failed")
    assert "it is a link or a file" in str(linked.error)
    assert "every user may write to it" in str(shared.error)
    assert not list(elsewhere.iterdir())
    assert effects(here) == []


async def test_a_record_with_a_changed_head_is_not_obeyed(here: Path) -> None:
    """A head names code: one that its user did not write is refused."""
    record = made_sweep(here, [1], ASKS)
    known = {**environment(here), "FRACTALE_TRUST_PROJECT": ""}
    async with Worker(known) as worker:
        assert (await worker.perform(task_of(record))).status == "waiting"
        run = RunRecords(record.state_dir).at("s.0")
        run.write_head({**run.read_head(), "registries": ["/elsewhere/tools.yaml"]})
        report = await worker.perform(task_of(record, replies={"review": "yes"}))

    assert report.status == "failed"
    assert effects(here) == []


async def test_a_plan_that_changed_since_the_sweep_began_runs_nothing(here: Path) -> None:
    record = made_sweep(here, [1])
    record.plan.write_text(ONE_TOOL.replace("double", "odd"), encoding="utf-8")
    async with Worker(environment(here)) as worker:
        report = await worker.perform(task_of(record))

    assert report.status == "failed"
    assert "has changed since the sweep was started" in (report.error or "")
    assert effects(here) == []
    assert not RunRecords(record.state_dir).at("s.0").path.exists()


async def test_a_run_that_asks_waits_and_is_resumed_with_the_reply(here: Path) -> None:
    record = made_sweep(here, [4], ASKS)
    async with Worker(environment(here)) as worker:
        asked = await worker.perform(task_of(record))
        again = await worker.perform(task_of(record))
        done = await worker.perform(task_of(record, replies={"review": "yes"}))

    assert asked.status == again.status == "waiting"
    assert [each["step"] for each in asked.waiting] == ["review"]
    assert done.status == "success"
    assert effects(here) == ["double 4"]


async def test_a_run_that_another_process_has_is_reported_as_held(here: Path) -> None:
    record = made_sweep(here, [4], ASKS)
    async with Worker(environment(here)) as worker:
        await worker.perform(task_of(record))
        with RunLock(RunRecords(record.state_dir).at("s.0")):
            report = await worker.perform(task_of(record))
    assert report.held


async def test_a_record_that_cannot_be_read_for_a_moment_is_a_loss_and_no_failure(
    here: Path,
) -> None:
    record = made_sweep(here, [4], ASKS)
    async with Worker(environment(here)) as worker:
        await worker.perform(task_of(record))
        run = RunRecords(record.state_dir).at("s.0")
        head = run.head.read_bytes()
        run.head.write_bytes(b'{"torn')
        with pytest.raises(WorkerLost, match="cannot be read") as lost:
            await worker.perform(task_of(record))
        assert not lost.value.cannot_start
        run.head.write_bytes(head)
        done = await worker.perform(task_of(record, replies={"review": "yes"}))
    assert done.status == "success"


async def test_a_plan_whose_tools_are_missing_cannot_start_anywhere(here: Path) -> None:
    record = made_sweep(here, [4])
    (here / "tools.yaml").write_text("tools:\n  - path: swept_tools.gone\n", encoding="utf-8")
    async with Worker(environment(here)) as worker:
        with pytest.raises(WorkerLost) as lost:
            await worker.perform(task_of(record))
    assert lost.value.cannot_start
    assert "gone" in lost.value.reason


async def test_long_outputs_are_cut_in_the_report_and_whole_in_the_record(here: Path) -> None:
    text = plan_text(
        "  - name: last\n    set: {long: \"{{ 'ab' * 3000 }}\"}", outputs="y: '{{ values.long }}'"
    )
    record = made_sweep(here, [1], text)
    async with Worker(environment(here)) as worker:
        report = await worker.perform(task_of(record))
    assert report.status == "success", report.error
    assert len(report.outputs["y"]) == 1001
    assert report.outputs["y"].endswith("…")


async def test_a_step_that_does_not_depend_on_what_varies_is_made_once(here: Path) -> None:
    same = "  - name: first\n    tool: double\n    cache: true\n    inputs: {x: 7}"
    record = made_sweep(here, [1, 2, 3], plan_text(same, tool_step("odd")))
    (here / "mended").touch()
    async with Worker(environment(here)) as worker:
        found = [await worker.perform(task_of(record, row)) for row in range(3)]
    assert [report.status for report in found] == ["success"] * 3
    assert effects(here) == ["double 7", "odd 1", "odd 2", "odd 3"]


def test_tasks_and_reports_survive_json() -> None:
    task = RunTask(
        run="s.1.3",
        sweep="s",
        row=1,
        plan="/p",
        plan_hash="h",
        inputs={"x": [1, "é"]},
        directory="/d",
        state_dir="/s",
        replies={"a": "b"},
    )
    report = RunReport(run="s.1", status="waiting", waiting=({"step": "a"},), used={"tokens": 3})
    assert RunTask.from_dict(json.loads(json.dumps(task.as_dict()))) == task
    assert RunReport.from_dict(json.loads(json.dumps(report.as_dict()))) == report
    assert task.attempt == 3


# -- the process -----------------------------------------------------------------------------------


class Process:
    """A worker as the process that it is."""

    def __init__(self, here: Path) -> None:
        self.process = subprocess.Popen(
            PROGRAM,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(here),
            cwd=here,
        )
        assert self.read() == {"hello": 1, "pid": self.process.pid}

    def send(self, task: RunTask) -> None:
        assert self.process.stdin
        self.process.stdin.write(json.dumps(task.as_dict()).encode() + b"\n")
        self.process.stdin.flush()

    def read(self) -> dict[str, Any]:
        assert self.process.stdout
        line = self.process.stdout.readline()
        assert line, self.process.stderr and self.process.stderr.read().decode()
        return json.loads(line)

    def end(self) -> tuple[bytes, bytes]:
        return self.process.communicate(timeout=60)


def wait_for(path: Path) -> None:
    until = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < until
        time.sleep(0.02)


def test_a_worker_process_reads_tasks_and_writes_only_reports_to_stdout(here: Path) -> None:
    """Neither a project's module that shadows a library nor a tool that prints confuses it."""
    record = made_sweep(here, [1, 2], plan_text(tool_step("loud")))
    (here / "mcp.py").write_text("raise SystemExit('the project was imported')\n")
    worker = Process(here)
    worker.send(task_of(record, 0))
    worker.send(task_of(record, 1))
    first, second = worker.read()["report"], worker.read()["report"]
    out, err = worker.end()

    assert (first["run"], first["outputs"]) == ("s.0", {"y": 2})
    assert (second["run"], second["outputs"]) == ("s.1", {"y": 4})
    assert out == b""
    assert err.count(b"a program prints") == 2
    assert worker.process.returncode == 0


@pytest.mark.parametrize("way", [pytest.param("SIGTERM", marks=pytest.mark.real), "stdin"])
def test_a_worker_that_is_to_end_stops_its_run_at_a_boundary(here: Path, way: str) -> None:
    """Also if its driver dies: then its stdin ends."""
    plan = plan_text(tool_step("gate", "first"), tool_step("double"))
    record = made_sweep(here, [3, 4], plan)
    worker = Process(here)
    worker.send(task_of(record, 0))
    wait_for(here / "effects")
    if way == "SIGTERM":
        worker.process.send_signal(signal.SIGTERM)
    else:
        assert worker.process.stdin
        worker.process.stdin.close()
        worker.process.stdin = None
    time.sleep(0.3)
    (here / "open").touch()
    report = worker.read()["report"]
    out, _ = worker.end()

    assert report["status"] == "stopped"
    assert report["again"] is True
    assert out == b""
    assert effects(here) == ["gate 3"]  # no further step
    assert asyncio.run(_performed(here, task_of(record, 0))).status == "success"
    assert effects(here) == ["gate 3", "double 3"]  # the next worker continued after it


async def _performed(here: Path, task: RunTask) -> RunReport:
    async with Worker(environment(here)) as worker:
        return await worker.perform(task)


async def test_a_worker_that_ends_begins_no_task(here: Path) -> None:
    record = made_sweep(here, [3])
    async with Worker(environment(here)) as worker:
        worker.stop()
        with pytest.raises(WorkerLost, match=LEAVING):
            await worker.perform(task_of(record))
    assert not RunRecords(record.state_dir).at("s.0").path.exists()


async def test_the_servers_of_a_plan_stay_open_between_runs(here: Path) -> None:
    """One process of a server serves all runs of a worker, as it serves all steps of a run."""
    project(here)
    server = here / "server.py"
    server.write_text(
        "import os\nfrom fastmcp import FastMCP\nmcp = FastMCP('count')\n"
        "@mcp.tool\ndef pid() -> int:\n    'The process.'\n    return os.getpid()\n"
        "mcp.run(show_banner=False)\n",
        encoding="utf-8",
    )
    (here / ".fractale").mkdir()
    (here / ".fractale" / "config.yaml").write_text(
        f"servers:\n  count: {{command: {sys.executable}, args: [{server}]}}\n", encoding="utf-8"
    )
    text = "name: p\ninputs: {x: {type: integer}}\nsteps:\n  - name: last\n    tool: pid\n"
    text += "outputs:\n  y: '{{ steps.last.outputs.result }}'\n"
    known = {**environment(here), "FRACTALE_TRUST_PROJECT": "1"}
    record = made_sweep(here, [1, 2, 3], text)
    async with Worker(known) as worker:
        found = [await worker.perform(task_of(record, row)) for row in range(3)]
    pids = {report.outputs["y"] for report in found}
    assert len(pids) == 1
