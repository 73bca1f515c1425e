"""The driver of a sweep without a terminal: as a batch job, or as a process in the background.

    detached = await detach(record, settings)      # `fractale sweep … --detach`

The batch job goes to the scheduler of the sweep's executor, and does what `fractale sweep resume`
does. Until it begins, the sweep is ``queued``: the ledger has a line with the job's ID. A driver
that dies leaves a sweep that can be resumed, by hand or by another job.
"""

from __future__ import annotations

import asyncio
import os
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from fractale.errors import CHECK_SPACE, FractaleError, RunHeld, StoreError, UsageError
from fractale.jobs.service import Jobs
from fractale.plan.escape import escape
from fractale.private import open_private
from fractale.schedulers.job import JobHandle, JobSpec
from fractale.secret_names import INPUT_VARIABLE
from fractale.settings import Settings, without_secrets
from fractale.settings.executors import ExecutorSettings
from fractale.settings.files import CONFIG_VARIABLE
from fractale.settings.load import ENVIRONMENT
from fractale.store.locks import holder_of_lock
from fractale.sweeps.executors import DRIVER_JOB, executor_settings
from fractale.sweeps.record import SweepLedger, SweepLock, SweepRecord

SCHEDULERS: Final[Mapping[str, str]] = {"slurm": "slurm", "pbspro": "pbs", "lsf": "lsf"}
"""The providers whose schedulers can run the driver → the scheduler's name."""

BEGIN_SECONDS: Final = 60.0
"""How long a process in the background may take to begin with the sweep."""

LOOK_SECONDS: Final = 0.1
LAST_CHARACTERS: Final = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Detached:
    """The driver that was started.

    Args:
        scheduler: The scheduler of its job; empty for a process of this machine.
        job: The job's ID, or the process's.
        output: The file with what it prints.
        withheld: Names of the variables with secrets of runs that its job does not get.
    """

    scheduler: str
    job: str
    output: Path
    withheld: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """The driver for people: ``slurm job 4711``."""
        return f"{self.scheduler} job {self.job}" if self.scheduler else f"process {self.job}"


def check_detachable(settings: Settings, name: str) -> None:
    """Check that a driver can be detached with an executor, before a sweep is written.

    Raises:
        UsageError: The settings lack the executor, or its scheduler cannot run the driver.
    """
    found = executor_settings(settings, name)
    if found is not None and found.provider != "local" and found.provider not in SCHEDULERS:
        raise UsageError(
            f"--detach is not supported for executor `{name}`: fractale submits no jobs to "
            f"{found.provider}",
            hint="leave out --detach, and start the command in a job of your own",
        )


async def detach(record: SweepRecord, settings: Settings) -> Detached:
    """Start the driver of a sweep, which no process drives, as its executor allows.

    Raises:
        UsageError: The executor's scheduler cannot run it.
        RunHeld: Another process drives the sweep.
        JobError: The scheduler refuses the job; none was submitted.
        StoreError: The record cannot be read or written, or the process ended at once.
    """
    name = str(record.read_head().get("executor") or "local")
    check_detachable(settings, name)
    found = executor_settings(settings, name)
    if found is None or found.provider == "local":
        return await _in_background(record, settings)
    return await _as_job(record, settings, found)


async def withdraw(
    record: SweepRecord, settings: Settings, queued: Mapping[str, Any] | None
) -> str | None:
    """Cancel the job of a driver that has not begun, unless this process is that job.

    Args:
        queued: The `queued_driver` before the sweep was cancelled or resumed.

    Returns:
        Why it could not be cancelled; None if it was, or if there is none.
    """
    if queued is None or not queued.get("scheduler") or os.environ.get(DRIVER_JOB) == queued["key"]:
        return None
    try:
        jobs = _jobs(record, settings, str(queued["scheduler"]))
        if (handle := await jobs.find(str(queued["key"]))) is not None:
            await jobs.cancel(handle)
    except FractaleError as error:
        return f"the driver's job {queued['job']} was not cancelled: {error}"
    return None


def queued_driver(record: SweepRecord) -> Mapping[str, Any] | None:
    """The ledger's line about a driver that has not begun; None if there is none.

    Raises:
        StoreError: The ledger cannot be read.
    """
    found: Mapping[str, Any] | None = None
    for line in record.read_ledger():
        match line.get("is"):
            case "queued":
                found = line
            case "driving" | "over":
                found = None
            case _:
                pass
    return found


async def _as_job(record: SweepRecord, settings: Settings, executor: ExecutorSettings) -> Detached:
    scheduler = SCHEDULERS[executor.provider]
    jobs = _jobs(record, settings, scheduler)
    with SweepLock(record):
        number = sum(line.get("is") == "queued" for line in record.read_ledger()) + 1
        key = f"sweep-{record.sweep_id}-driver-{number}"
        handle = await jobs.submit(_spec(record, settings, executor, key), key=key)
        with SweepLedger(record) as ledger:
            ledger.add(_queued(handle, key))
    return Detached(
        scheduler=scheduler,
        job=handle.native_id,
        output=record.output,
        withheld=_withheld(settings),
    )


def _withheld(settings: Settings) -> tuple[str, ...]:
    """The variables with secrets of runs: keys of models, and secret inputs."""
    known = without_secrets(settings.environment, settings.secrets)
    keys = ("openai_api_key", "gemini_api_key")
    names = {variable for key in keys for variable in ENVIRONMENT[key]}
    return tuple(
        name
        for name, value in settings.environment.items()
        if value and name not in known and (name in names or name.startswith(INPUT_VARIABLE))
    )


def _queued(handle: JobHandle, key: str) -> dict[str, Any]:
    return {
        "is": "queued",
        "at": time.time(),
        "scheduler": handle.scheduler,
        "job": handle.native_id,
        "key": key,
        "folder": str(handle.job_dir),
    }


def _jobs(record: SweepRecord, settings: Settings, scheduler: str) -> Jobs:
    return Jobs.of(settings, scheduler, root=record.driver_jobs)


def _spec(record: SweepRecord, settings: Settings, executor: ExecutorSettings, key: str) -> JobSpec:
    head = record.read_head()
    python = executor.python or sys.executable
    words = [python, "-P", "-m", "fractale.cli", "sweep", "resume", record.sweep_id]
    output = shlex.quote(str(record.output.absolute()))
    lines = ["#!/bin/bash"]
    if executor.qos:
        lines.append(f"#SBATCH --qos={executor.qos}")
    lines += ["umask 077", f"exec >> {output} 2>&1", executor.worker_init]
    lines.append(f"exec {shlex.join(words)}")
    return JobSpec(
        name=f"fractale-{record.sweep_id}",
        folder=Path(str(head.get("folder") or Path.cwd())),
        script="\n".join(line for line in lines if line) + "\n",
        nodes=1,
        tasks=1,
        time=executor.driver_walltime,
        queue=executor.partition or executor.queue,
        account=executor.account,
        env={**_settings_environment(record, settings), DRIVER_JOB: key},
    )


def _settings_environment(record: SweepRecord, settings: Settings) -> dict[str, str]:
    """The variables of fractale's own settings; a scheduler may pass on no others."""
    known = without_secrets(settings.environment, settings.secrets)
    return {name: value for name, value in known.items() if name.startswith("FRACTALE_")} | (
        _shared(record)
    )


def _shared(record: SweepRecord) -> dict[str, str]:
    decided = os.environ.get(CONFIG_VARIABLE)  # also by --trust-project of this process
    return {
        "FRACTALE_STATE_DIR": str(record.state_dir.absolute()),
        **({CONFIG_VARIABLE: decided} if decided else {}),
    }


async def _in_background(record: SweepRecord, settings: Settings) -> Detached:
    """Start a process, and wait until it has begun with the sweep."""
    if (holder := holder_of_lock(record.lock)) is not None:
        raise RunHeld(f"sweep {record.sweep_id} is driven by {holder}")
    words = [sys.executable, "-P", "-m", "fractale.cli", "sweep", "resume", record.sweep_id]
    before, written = _drivers(record), _size(record.output)
    try:
        output = open_private(record.output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        try:
            process = subprocess.Popen(  # noqa: ASYNC220,S603 - fractale itself; it returns at once
                words,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=str(record.read_head().get("folder") or Path.cwd()),
                env={**(settings.environment or os.environ), **_shared(record)},
                start_new_session=True,
            )
        finally:
            os.close(output)
    except OSError as error:
        raise StoreError(f"no process can be started: {error}", hint=CHECK_SPACE) from error
    threading.Thread(target=process.wait, daemon=True).start()  # no zombie is left
    until = time.monotonic() + BEGIN_SECONDS
    while _drivers(record) == before and time.monotonic() < until:
        if process.poll() is not None and _drivers(record) == before:
            raise StoreError(
                f"the driver of sweep {record.sweep_id} ended at once: {_last(record, written)}",
                hint=f"its output: {record.output}",
            )
        await asyncio.sleep(LOOK_SECONDS)
    return Detached(scheduler="", job=str(process.pid), output=record.output)


def _drivers(record: SweepRecord) -> int:
    return sum(line.get("is") == "driving" for line in record.read_ledger())


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _last(record: SweepRecord, written: int) -> str:
    try:
        with record.output.open("rb") as file:
            file.seek(written)
            text = file.read(100_000).decode(errors="replace").strip()
    except OSError:
        text = ""
    return escape(text[-LAST_CHARACTERS:], lines=True) or "it printed nothing"
