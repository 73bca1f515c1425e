"""Runs of a sweep in Parsl's workers: on this machine, or on the nodes of a cluster.

    driver ── interchange (`parsl_processes`) ── worker pools, one per node ── workers

A *block* is one job of a scheduler; each of its nodes has a worker pool, and each worker performs
one task at a time (`parsl_node`). Blocks are submitted when there are tasks for them, and cancelled
when there are none. All connections are encrypted, with keys that are made for each driver.

Only the `HighThroughputExecutor` of Parsl is used: the sweep's driver keeps the records, and
decides what is tried again.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import re
import secrets
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import cached_property
from importlib.util import find_spec
from ipaddress import ip_address
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from fractale.errors import SettingsError, StoreError
from fractale.plan.escape import escape
from fractale.private import (
    append_line,
    cut_torn_line,
    make_folder,
    open_private,
    write_private,
)
from fractale.settings import STARTED_BY, Settings, is_secret_variable, slurm_token
from fractale.settings.executors import LOOPBACK, ExecutorSettings
from fractale.settings.files import CONFIG_VARIABLE
from fractale.settings.load import ENVIRONMENT
from fractale.sweeps.executors import DRIVER_JOB, WorkerLost
from fractale.sweeps.parsl_node import PERFORM, message, report_of
from fractale.sweeps.parsl_processes import interchange_command, pool_command
from fractale.sweeps.parsl_provider import parsl_missing, provider_of
from fractale.sweeps.record import SweepRecord
from fractale.sweeps.task import RunReport, RunTask

HEARTBEAT: Final = (10, 60)
"""Seconds between two heartbeats of a worker pool, and without one until it counts as lost. A pool
that hears nothing from the interchange for that long ends itself, and its block."""

TICK_SECONDS: Final = 1.0
"""Between two looks at the interchange, which is on this machine."""

LOCAL_POLL_SECONDS: Final = 2.0
"""Between two looks at blocks that are processes of this machine."""

IDLE_SECONDS: Final = 120.0
"""A block without a task for this long is cancelled."""

MOST_BAD_BLOCKS: Final = 3
"""After this many blocks in a row that were refused, or ended before a worker of theirs performed
anything, no more are submitted."""

MOST_UNANSWERED: Final = 20
"""After this many questions in a row that the scheduler did not answer, the sweep stops."""

DRAIN_SECONDS: Final = 300.0
DRAIN_SHARE: Final = 0.1
"""A block gets no new tasks in this last part of its walltime, and at most `DRAIN_SECONDS`."""

SHORT_SECONDS: Final = 120.0
"""A block that ends sooner after its start, without a report, counts as one that cannot start."""

SETTLE_SECONDS: Final = 60.0
"""For this long after its submission, a scheduler's accounting may not know a job. Parsl takes such
a job for a completed one."""

COMMAND_SECONDS: Final = 60
"""How long the interchange may take to answer."""

SAFE_PATH: Final = re.compile(r"[A-Za-z0-9_./+=@:,-]+")
"""Parsl writes paths into shell scripts as they are."""

STDERR_LINES: Final = 6


@dataclass(slots=True)
class Block:
    """A job of the scheduler that has workers.

    Args:
        job: The scheduler's id.
        submitted: When, of `time.monotonic`.
        connected: When one of its worker pools connected, of `time.monotonic`.
        reports: How many reports had come from all workers by then.
        over: Whether the job has ended, as the scheduler says.
    """

    job: Any
    submitted: float
    connected: float | None = None
    reports: int = 0
    over: bool = False


@dataclass(slots=True)
class _Open:
    """A task that has no report yet."""

    task: RunTask
    future: Future[bytes]
    stopped: asyncio.Future[str] = field(repr=False)


class ParslExecutor:
    """Performs tasks in the workers of blocks.

    Args:
        settings: Its entry of the user's settings.
        record: Of the sweep. What Parsl writes is in its directory `workers`.
        user: All settings: how often a scheduler may be asked, and the environment.
        workers: How many tasks to perform at a time, at most; None: as many as all blocks have.
        heartbeat, idle_seconds: Other values than `HEARTBEAT` and `IDLE_SECONDS`.

    Raises:
        DependencyMissing: Parsl is not installed.
    """

    def __init__(
        self,
        settings: ExecutorSettings,
        record: SweepRecord,
        *,
        user: Settings,
        workers: int | None = None,
        heartbeat: tuple[int, int] = HEARTBEAT,
        idle_seconds: float = IDLE_SECONDS,
    ) -> None:
        if find_spec("parsl") is None:
            raise parsl_missing(settings.name)
        self._settings = settings
        self._user = user
        self._most = min(workers or settings.workers, settings.workers)
        self._environment = environment_of_runs(user)
        self._heartbeat = heartbeat
        self._idle_seconds = idle_seconds
        self._folder = record.workers.absolute() / "parsl"
        self._log = BlockLog(self._folder / "blocks.jsonl")
        self._withdrawn = self._folder / f"withdrawn-{secrets.token_hex(4)}"
        self._sweep = record.sweep_id
        self._htex: Any = None
        self._provider: Any = None
        self._blocks: dict[str, Block] = {}
        self._open: dict[int, _Open] = {}
        self._number = 0
        self._bad = 0
        self._reports = 0
        self._unanswered = 0
        self._next_block = 0.0
        self._polled = 0.0
        self._busy_at = time.monotonic()
        self._fault: WorkerLost | None = None
        self._stopping = False
        self._closed = False
        self._lock = threading.Lock()  # blocks are changed in threads
        self._wake = asyncio.Event()
        self._watcher: asyncio.Task[None] | None = None
        self._unlog: Any = None

    @property
    def workers(self) -> int:
        """How many tasks it performs at a time once all its blocks have started."""
        return self._most

    # -- opening and closing ----------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        try:
            await asyncio.to_thread(self._start)
        except BaseException:
            await asyncio.to_thread(self._end)
            raise
        self._watcher = asyncio.create_task(self._watch())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._watcher is not None:
            self._watcher.cancel()
            await asyncio.wait((self._watcher,))
        await asyncio.to_thread(self._end)
        self._lose("the driver ended")

    def _start(self) -> None:
        try:
            make_folder(self._folder)
            scripts = self._folder / "scripts"
            make_folder(scripts)
        except OSError as error:
            raise StoreError(f"{self._folder} cannot be made: {error}") from error
        python = self._settings.python or sys.executable
        for path in (str(self._folder), python):
            if not SAFE_PATH.fullmatch(path):
                raise SettingsError(
                    f"executor `{self._settings.name}` cannot use the path {path}: the scripts of "
                    "its blocks cannot quote it",
                    hint="set `state_dir` to a path of letters, digits, `_`, `-`, `.` and `/`",
                )
        self._unlog = _log_to(self._folder / "driver.log")
        self._provider = provider_of(self._settings, scripts, self._user.site_environment)
        self._cancel_left_over()
        self._htex = self._make_htex(python)
        self._htex.start()

    def _make_htex(self, python: str) -> Any:
        from parsl.executors.high_throughput.executor import (
            DEFAULT_LAUNCH_CMD,
            HighThroughputExecutor,
        )

        settings, (period, threshold) = self._settings, self._heartbeat
        margin = min(DRAIN_SECONDS, DRAIN_SHARE * settings.walltime)
        on_jobs = settings.provider not in ("local", "kubernetes")
        htex = HighThroughputExecutor(
            label=f"fractale-{self._sweep}-{self._log.token}",
            provider=self._provider,
            launch_cmd=DEFAULT_LAUNCH_CMD.replace(
                "process_worker_pool.py", pool_command(python), 1
            ),
            interchange_launch_cmd=interchange_command(os.getpid()),
            address=address_of(settings, detached=DRIVER_JOB in self._user.environment),
            loopback_address=LOOPBACK,
            worker_port_range=(settings.ports[0], settings.ports[1] + 1),
            max_workers_per_node=settings.workers_per_node,
            # The number of workers is set, not counted from cores that a job may not have.
            cores_per_worker=0.001,
            heartbeat_period=period,
            heartbeat_threshold=threshold,
            drain_period=round(settings.walltime - margin) if on_jobs else None,
            block_error_handler=False,
            encrypted=True,
        )
        htex.run_dir = str(self._folder)
        htex.run_id = self._sweep
        return htex

    def _cancel_left_over(self) -> None:
        """Cancel the blocks of a driver that died; those of this machine end themselves."""
        left = self._log.left_over()
        if not left or self._settings.provider in ("local", "kubernetes"):
            self._log.over(*left)
            return
        from parsl.jobs.states import JobState, JobStatus

        for job in left:
            self._provider.resources[job] = {
                "job_id": job,
                "status": JobStatus(JobState.RUNNING),
                "job_stdout_path": None,
                "job_stderr_path": None,
            }
        with contextlib.suppress(Exception):  # it may have ended already
            self._provider.cancel(left)
        for job in left:
            self._provider.resources.pop(job, None)
        self._log.over(*left)

    def _end(self) -> None:
        """End the blocks and the interchange; nothing that this object started is left."""
        self._withdraw()
        with self._lock, contextlib.suppress(Exception):
            self._closed = True
            self._cancel([name for name, block in self._blocks.items() if not block.over])
        if self._htex is not None and self._htex.interchange_proc is not None:
            with contextlib.suppress(Exception):
                self._htex.shutdown()
        if self._unlog is not None:
            self._unlog()

    # -- tasks ------------------------------------------------------------------------------------

    async def perform(self, task: RunTask) -> RunReport:
        """Perform a task in a worker. Cancelling this leaves the run with its worker.

        Raises:
            WorkerLost: The worker ended before it reported, or no worker can start.
        """
        if self._fault is not None:
            raise self._fault
        if self._stopping:
            return withdrawn_report(task)
        self._number += 1
        number = self._number
        content = message(task, self._environment, self._withdrawn)
        future: Future[bytes] = self._htex.submit_payload(
            {"task_executor": {"f": PERFORM}}, content
        )
        entry = _Open(task, future, asyncio.get_running_loop().create_future())
        self._open[number] = entry
        self._busy_at = time.monotonic()
        self._wake.set()
        # Parsl sets the result of the future in a thread, and fails on one that is cancelled.
        answer = asyncio.wrap_future(future)
        answer.add_done_callback(_retrieved)
        try:
            await asyncio.wait((answer, entry.stopped), return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._open.pop(number, None)
            self._busy_at = time.monotonic()
        if answer.done():
            return self._report(answer)
        if not (reason := entry.stopped.result()):
            return withdrawn_report(task)
        raise self._fault or WorkerLost(reason)

    def stop(self) -> None:
        """Begin no task any more: those that no worker has begun end as ``stopped``."""
        self._stopping = True
        self._withdraw()
        self._wake.set()

    def _withdraw(self) -> None:
        with contextlib.suppress(OSError):
            os.close(open_private(self._withdrawn, os.O_CREAT | os.O_WRONLY))

    def _report(self, answer: asyncio.Future[bytes]) -> RunReport:
        error = answer.exception()
        if error is None:
            self._bad = 0
            self._reports += 1
            return report_of(answer.result())
        raise self._lost(error) from error

    def _lost(self, error: BaseException) -> WorkerLost:
        """The meaning of an error of Parsl's, or of the worker, for the sweep."""
        words = escape(f"{error}", 500)
        match type(error).__name__:
            case "ManagerLost":
                return WorkerLost(f"a node of the block is gone: {words}")
            case "WorkerLost":
                return WorkerLost(f"the worker's process ended: {words}")
            case "BadStateException":
                return self._stop_for(words)
            case _ if isinstance(error, ImportError):
                return self._stop_for(
                    f"the workers of executor `{self._settings.name}` cannot import fractale: "
                    f"{words}; check its `worker_init` and `python`"
                )
            case name:
                return WorkerLost(f"the worker failed: {name}: {words}")

    def _stop_for(self, reason: str) -> WorkerLost:
        if self._fault is None:
            self._fault = WorkerLost(reason, cannot_start=True)
        return self._fault

    def _lose(self, reason: str) -> None:
        """End all open tasks; an empty reason: as withdrawn."""
        for entry in [*self._open.values()]:
            if not entry.stopped.done():
                entry.stopped.set_result(reason)

    # -- blocks -----------------------------------------------------------------------------------

    async def _watch(self) -> None:
        """Keep as many blocks as there are tasks for, until this is cancelled."""
        while True:
            try:
                await asyncio.to_thread(self._look)
            except Exception as error:  # noqa: BLE001 - the sweep stops with it
                self._stop_for(f"executor `{self._settings.name}`: {escape(str(error), 500)}")
            if self._fault is not None:
                self._lose(self._fault.reason)
            elif self._stopping and not self._has_begun():
                self._lose("")
            self._wake.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), TICK_SECONDS)

    def _look(self) -> None:
        with self._lock:
            if not self._closed and self._fault is None:
                self._look_once()

    def _look_once(self) -> None:
        if (code := self._htex.interchange_proc.poll()) is not None:
            self._stop_for(f"Parsl's interchange ended with exit code {code}")
            return
        if self._blocks:
            self._see_connected()
            poll = LOCAL_POLL_SECONDS
            if self._settings.provider != "local":
                poll = max(TICK_SECONDS, self._user.poll_seconds)
            if time.monotonic() - self._polled >= poll:
                self._polled = time.monotonic()
                self._see_ended()
        if not self._stopping:
            self._scale()

    @property
    def _active(self) -> dict[str, Block]:
        return {name: block for name, block in self._blocks.items() if not block.over}

    def _has_begun(self) -> bool:
        """Whether a worker may have one of the tasks."""
        return any(block.connected is not None for block in self._active.values())

    def _see_connected(self) -> None:
        for name in self._ask("CONNECTED_BLOCKS"):
            if (block := self._blocks.get(name)) and block.connected is None:
                block.connected, block.reports = time.monotonic(), self._reports

    def _see_ended(self) -> None:
        """Ask the scheduler about the blocks, all at once."""
        active = self._active
        try:
            states = self._provider.status([block.job for block in active.values()])
        except Exception:
            # A scheduler may be down for a while; what it said then is in the log.
            logging.getLogger("parsl").exception("no states of blocks")
            self._unanswered += 1
            if self._unanswered >= MOST_UNANSWERED:
                raise
            return
        self._unanswered = 0
        for (name, block), status in zip(active.items(), states, strict=True):
            if not status.terminal:
                continue
            if self._is_doubtful(name, block, status):
                self._provider.resources[block.job]["status"] = _pending()
                continue
            block.over = True
            self._log.over(block.job)
            if block.connected is None:
                what = "ended before a worker of it connected"
            elif time.monotonic() - block.connected < SHORT_SECONDS and (
                block.reports == self._reports
            ):
                what = "ended before a worker of it performed a run"
            else:
                continue
            self._bad_block(f"block {name} (job {block.job}) {what}", status)

    def _is_doubtful(self, name: str, block: Block, status: Any) -> bool:
        """Whether a block may be alive that the provider calls completed: it asks again."""
        if self._settings.provider in ("local", "kubernetes") or status.status_name != "COMPLETED":
            return False
        if block.connected is None:
            return time.monotonic() - block.submitted < SETTLE_SECONDS
        return any(pool["block_id"] == name for pool in self._ask("MANAGERS"))

    def _bad_block(self, what: str, status: Any = None) -> None:
        self._bad += 1
        self._next_block = time.monotonic() + min(60.0, 2.0**self._bad)
        if self._bad >= MOST_BAD_BLOCKS:
            self._stop_for(
                f"executor `{self._settings.name}` cannot start workers (check its settings, such "
                f"as `worker_init` and `python`): {what}{self._said(status)}"
            )

    def _said(self, status: Any) -> str:
        """The last lines that a block wrote, or that the scheduler said."""
        text = str(getattr(self._provider, "said", "") or "")
        if status is not None:
            text = str(status.message or "")
            path = status.stderr_path
            if path and (found := _last_lines(Path(path))):
                text = found
        shown = escape(text, 600, lines=True)
        return f":\n{shown}" if shown else ""

    def _scale(self) -> None:
        per_block = self._settings.workers_per_block
        wanted = min(self._settings.blocks, -(-len(self._open) // per_block))
        active = self._active
        while len(active) < wanted and time.monotonic() >= self._next_block:
            if not self._submit():
                return
            active = self._active
        if len(active) > wanted:
            self._release(active, len(active) - wanted)

    def _submit(self) -> bool:
        """Submit one block; returns whether the scheduler accepted it."""
        for name in self._htex.scale_out_facade(1):
            job = self._htex.blocks_to_job_id[name]
            self._blocks[name] = Block(job, time.monotonic())
            self._log.submitted(name, job)
            return True
        refused = [s for s in self._htex.status_facade.values() if s.message]
        self._bad_block("the scheduler refused a block", refused[-1] if refused else None)
        return False

    def _release(self, active: Mapping[str, Block], count: int) -> None:
        """Cancel blocks that have nothing to do: first those that still wait in the queue."""
        if time.monotonic() - self._busy_at < self._idle_seconds:
            return
        busy: set[str] = set()
        for pool in self._ask("MANAGERS"):
            if pool["tasks"] or pool["idle_duration"] < self._idle_seconds:
                busy.add(pool["block_id"])
        free = [name for name in active if name not in busy]
        free.sort(key=lambda name: active[name].connected is not None)
        chosen = free[:count]
        for pool in self._ask("MANAGERS"):
            if pool["block_id"] in chosen:
                self._ask(["HOLD_MANAGER", pool["manager"]])
        self._cancel(chosen)

    def _cancel(self, names: list[str]) -> None:
        jobs = [self._blocks[name].job for name in names]
        if not jobs:
            return
        if all(self._provider.cancel(jobs)):
            self._log.over(*jobs)
            for name in names:
                self._blocks[name].over = True

    def _ask(self, words: Any) -> Any:
        return self._htex.command_client.run(words, timeout_s=COMMAND_SECONDS)


class BlockLog:
    """The jobs of a sweep's blocks, in a file of JSON lines.

    A later driver cancels those that are left.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    @cached_property
    def token(self) -> str:
        """Part of the names of the blocks of this sweep, and of no other."""
        path = self._path.with_name("token")
        with contextlib.suppress(FileNotFoundError):
            return path.read_text(encoding="ascii")
        token = secrets.token_hex(4)
        write_private(path, token, sync="name")
        return token

    def submitted(self, block: str, job: Any) -> None:
        """Record that a block has been submitted."""
        self._append({"block": block, "job": job, "at": time.time()})

    def over(self, *jobs: Any) -> None:
        """Record that blocks have ended, or been cancelled."""
        for job in jobs:
            self._append({"over": job, "at": time.time()})

    def left_over(self) -> list[Any]:
        """The jobs whose ends are not recorded."""
        left: dict[Any, None] = {}
        try:
            lines = self._path.read_bytes().splitlines()
        except FileNotFoundError:
            return []
        for line in lines:
            with contextlib.suppress(ValueError, TypeError, AttributeError):
                entry = json.loads(line)
                if "over" in entry:
                    left.pop(entry["over"], None)
                else:
                    left[entry["job"]] = None
        return [*left]

    def _append(self, entry: Mapping[str, Any]) -> None:
        descriptor = open_private(self._path, os.O_CREAT | os.O_RDWR | os.O_APPEND)
        try:
            cut_torn_line(descriptor)
            append_line(descriptor, json.dumps(entry).encode() + b"\n")
        finally:
            os.close(descriptor)


def environment_of_runs(settings: Settings) -> dict[str, str]:
    """The variables of the driver that its runs need on a node: settings, and secrets.

    A scheduler passes on others, and a node has its own; `worker_init` may set more.
    """
    known = {name for names in ENVIRONMENT.values() for name in names}
    without = {*slurm_token(settings.environment), STARTED_BY, DRIVER_JOB}
    found = {
        name: value
        for name, value in settings.environment.items()
        if (name in known or name.startswith("FRACTALE_") or is_secret_variable(name, value))
        and name not in without
    }
    if decided := os.environ.get(CONFIG_VARIABLE):  # also by --trust-project of this process
        found[CONFIG_VARIABLE] = decided
    return found


def address_of(settings: ExecutorSettings, *, detached: bool = False) -> str:
    """The one address on which the driver's machine awaits workers.

    Args:
        detached: Whether the driver is a job, on a machine that may not have the `address` of the
            settings: its own address is used then.

    Raises:
        SettingsError: The machine does not have the address, or its name has no address that other
            machines reach.
    """
    if settings.provider == "local":
        return LOOPBACK
    if settings.address is not None:
        address = _resolved(settings, settings.address)
        if _is_of_this_machine(address):
            return address
        if not detached:
            raise _bad_address(settings, f"this machine does not have the address {address}")
    name = socket.gethostname()
    address = _resolved(settings, name)
    if ip_address(address).is_loopback:
        raise _bad_address(
            settings,
            f"this machine's name, `{name}`, has only the address {address}, which nodes cannot "
            "reach",
        )
    return address


def _resolved(settings: ExecutorSettings, name: str) -> str:
    try:
        found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except OSError as error:
        raise _bad_address(settings, f"`{name}` has no address: {error}") from error
    found.sort(key=lambda each: each[0] != socket.AF_INET)  # clusters' networks have IPv4
    return str(found[0][4][0])


def _is_of_this_machine(address: str) -> bool:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
    return True


def _bad_address(settings: ExecutorSettings, why: str) -> SettingsError:
    return SettingsError(
        f"executor `{settings.name}`: {why}",
        hint=f"set `address` of `executors.{settings.name}` to one of this machine that the nodes "
        "reach",
    )


def withdrawn_report(task: RunTask) -> RunReport:
    """The report of a task that no worker began."""
    return RunReport(run=task.run, status="stopped")


def _pending() -> Any:
    from parsl.jobs.states import JobState, JobStatus

    return JobStatus(JobState.PENDING)


def _retrieved(future: asyncio.Future[bytes]) -> None:
    if not future.cancelled():
        future.exception()


def _last_lines(path: Path) -> str:
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 8192))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return ""
    return "\n".join([line for line in lines if line.strip()][-STDERR_LINES:])


def _log_to(path: Path) -> Callable[[], None]:
    """Send what Parsl logs to a file, and not to the terminal; returns what ends that."""
    os.close(open_private(path, os.O_CREAT | os.O_WRONLY))
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger = logging.getLogger("parsl")
    before = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False

    def end() -> None:
        logger.removeHandler(handler)
        logger.setLevel(before[0])
        logger.propagate = before[1]
        handler.close()

    return end
