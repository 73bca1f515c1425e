"""`--on` and `--detach` as people type them: what is refused, and a driver in the background."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from fractale.cli import run_command
from fractale.sweeps.detach import queued_driver, withdraw
from fractale.sweeps.executors import DRIVER_JOB
from fractale.sweeps.record import SweepLedger, SweepRecords
from fractale.sweeps.results import view_of
from made_sweeps import START, sweep_record
from node_sweeps import Site, site, until

SLURM = {"provider": "slurm", "address": "127.0.0.1"}


@pytest.fixture
def here(tmp_path, monkeypatch) -> Site:
    found = site(tmp_path / "project", SLURM, {})
    for name, value in found.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(found.folder)
    return found


def start(here: Site, *words: str) -> list[str]:
    given = ("-r", "tools.yaml", "--over", "x=1,2", "-i", f"log={here.log}", "--yes")
    return ["sweep", "plan.yaml", *given, "--sweep-id", "s", *words]


def said(capsys, code: int, words: list[str]) -> str:
    assert run_command(words) == code
    return capsys.readouterr().err


@pytest.mark.parametrize("more", [(), ("--dry-run",), ("--detach",)])
def test_an_unknown_executor_ends_with_the_nearest_name_and_writes_nothing(here, capsys, more):
    err = said(capsys, 2, start(here, "--on", "node", *more))
    assert "unknown executor `node`" in err
    assert "did you mean `nodes`" in err
    assert not (here.settings.state_dir / "sweeps").exists()


def test_a_scheduler_that_cannot_have_the_driver_is_said_before_anything_is_written(
    tmp_path, monkeypatch, capsys
):
    torque = site(tmp_path / "torque", {"provider": "torque"}, {})
    for name, value in torque.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(torque.folder)
    err = said(capsys, 2, start(torque, "--on", "nodes", "--detach"))
    assert "--detach is not supported for executor `nodes`" in err
    assert "torque" in err
    assert not (torque.settings.state_dir / "sweeps").exists()


def test_a_sweep_in_the_background_is_driven_without_its_terminal(here, capsys):
    (here.folder / "node_tools.py").touch()
    assert run_command(start(here, "-i", "seconds=0.1", "--detach")) == 0
    captured = capsys.readouterr()
    assert "sweep s runs in the background: process " in captured.out
    assert "next    fractale sweep watch s" in captured.out
    # Its summary is the last thing that it prints.
    asyncio.run(until(lambda: "2 success" in output(here), lambda: output(here), 60))
    assert here.view().status == "success"
    assert here.calls() == {1: 1, 2: 1}


def test_a_driver_that_ends_at_once_is_reported_with_its_output(here, capsys, monkeypatch):
    record = here.sweep(2, "s")
    record.write_head({**record.read_head(), "executor": "local"})
    record.ledger.mkdir()  # a record that cannot be driven
    err = said(capsys, 1, ["sweep", "resume", "s", "--detach"])
    assert "cannot be read" in err
    assert "next    fractale sweep resume s" in err


def test_limits_are_not_changed_by_a_driver_that_is_detached(here, capsys):
    here.sweep(2, "s")
    err = said(capsys, 2, ["sweep", "resume", "s", "--detach", "--limit", "tokens=5"])
    assert "--detach takes no --limit" in err


def output(here: Site) -> str:
    path = SweepRecords(here.settings.state_dir).at("s").output
    return path.read_text() if path.exists() else ""


# -- what the ledger says of a driver that waits


def queued(folder: Path) -> dict[str, object]:
    return {
        "is": "queued",
        "at": START,
        "scheduler": "slurm",
        "job": "4711",
        "key": "k",
        "folder": str(folder),
    }


def test_a_sweep_is_queued_until_its_driver_begins_or_its_job_ends(tmp_path):
    job = tmp_path / "job"
    job.mkdir()
    record = sweep_record(tmp_path / "state", "s", [{"x": i} for i in range(2)])
    with SweepLedger(record) as ledger:
        ledger.add(queued(job))
    view = view_of(record)
    assert (view.status, view.reason) == ("queued", "its driver waits as slurm job 4711")
    assert queued_driver(record) is not None
    (job / "ended.3").touch()
    view = view_of(record)
    assert view.status == "stopped"
    assert "slurm job 4711, ended before it began" in str(view.reason)
    with SweepLedger(record) as ledger:
        ledger.add({"is": "driving", "at": START + 1, "pid": 1})
    assert queued_driver(record) is None
    assert view_of(record).status == "stopped"  # the process is gone


async def test_the_drivers_own_job_does_not_cancel_itself(tmp_path, monkeypatch, settings):
    record = sweep_record(tmp_path / "state", "s", [{"x": 1}])
    with SweepLedger(record) as ledger:
        ledger.add(queued(tmp_path))
    monkeypatch.setenv(DRIVER_JOB, "k")
    assert await withdraw(record, settings, queued_driver(record)) is None
    monkeypatch.setenv(DRIVER_JOB, "another")
    monkeypatch.setenv("PATH", "/nowhere")
    trouble = await withdraw(record, settings, queued_driver(record))
    # Nothing was submitted for this key, so that there is nothing to cancel.
    assert trouble is None
