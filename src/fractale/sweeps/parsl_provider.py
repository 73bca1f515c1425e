"""Parsl's provider of blocks, made from the settings of an executor.

A provider submits, looks at and cancels the jobs of blocks with the scheduler's own programs. These
get the environment that fractale gives to all programs of a site: without secrets.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from fractale.errors import DependencyMissing
from fractale.settings.executors import ExecutorSettings

EXTRA: Final = "pip install 'fractale[parsl]'"
COMMAND_SECONDS: Final = 120
"""How long one program of the scheduler may take."""

END_SECONDS: Final = 10.0
"""How long the processes of a local block have after SIGTERM before they are killed."""

KEPT: Final = frozenset({"SLURM_CONF", "SLURM_CLUSTERS", "SLURM_JWT", "SLURM_CONF_SERVER"})
"""The ``SLURM_*`` variables that Slurm's programs get. The others describe the job that this
process runs in, and would change the jobs that it submits."""

LAUNCHERS: Final[Mapping[str, str]] = {
    "none": "SimpleLauncher",
    "single_node": "SingleNodeLauncher",
    "srun": "SrunLauncher",
    "mpiexec": "MpiExecLauncher",
    "mpirun": "MpiRunLauncher",
    "aprun": "AprunLauncher",
    "jsrun": "JsrunLauncher",
}


def provider_of(settings: ExecutorSettings, scripts: Path, environment: Mapping[str, str]) -> Any:
    """Make the provider. It asks some schedulers at once whether they have accounting.

    Args:
        scripts: The directory for the scripts and the output of blocks.
        environment: That of the scheduler's programs.

    Raises:
        DependencyMissing: Parsl, or what it needs for this provider, is not installed.
    """
    try:
        import parsl.launchers
        import parsl.providers
    except ImportError as error:
        raise parsl_missing(settings.name) from error
    launcher = getattr(parsl.launchers, LAUNCHERS[settings.launcher])()
    shared: dict[str, Any] = {
        "nodes_per_block": settings.nodes,
        "max_blocks": settings.blocks,
        "worker_init": settings.worker_init,
    }
    jobs = {
        **shared,
        "launcher": launcher,
        "walltime": walltime(settings.walltime),
        "scheduler_options": settings.scheduler_options,
        "cmd_timeout": COMMAND_SECONDS,
    }
    cores = settings.cores_per_worker and settings.cores_per_worker * settings.workers_per_node
    name = settings.provider
    if name == "local":
        local = _on_this_machine(parsl.providers.LocalProvider)
        made: Any = local(**shared, launcher=launcher)
    elif name == "kubernetes":
        made = _kubernetes(settings, shared)
    elif name == "slurm":
        made = _with_environment(parsl.providers.SlurmProvider, environment, kept=KEPT)(
            **jobs,
            partition=settings.partition,
            account=settings.account,
            qos=settings.qos,
            constraint=settings.constraint,
            exclusive=settings.exclusive,
            cores_per_node=cores,
        )
    elif name == "pbspro":
        made = _with_environment(parsl.providers.PBSProProvider, environment)(
            **jobs, queue=settings.queue, account=settings.account, cpus_per_node=cores or 1
        )
    elif name == "torque":
        made = _with_environment(parsl.providers.TorqueProvider, environment)(
            **jobs, queue=settings.queue, account=settings.account
        )
    else:
        made = _with_environment(parsl.providers.LSFProvider, environment)(
            **jobs,
            queue=settings.queue,
            project=settings.account,
            cores_per_node=cores,
            request_by_nodes=cores is None,
        )
    made.script_dir = str(scripts)
    return made


def parsl_missing(name: str) -> DependencyMissing:
    """The error for an executor of the settings where Parsl is not installed."""
    return DependencyMissing(f"executor `{name}` needs Parsl, which is not installed", hint=EXTRA)


def walltime(seconds: float) -> str:
    """A walltime as Parsl's providers read it: ``HH:MM:SS``."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{rest:02d}"


def _kubernetes(settings: ExecutorSettings, shared: Mapping[str, Any]) -> Any:
    import parsl.errors
    import parsl.providers

    try:
        return parsl.providers.KubernetesProvider(
            **shared,
            image=str(settings.image),
            namespace=settings.namespace or "default",
            persistent_volumes=list(settings.volumes),
            init_blocks=0,
        )
    except parsl.errors.OptionalModuleMissing as error:
        raise DependencyMissing(
            f"executor `{settings.name}` needs the package kubernetes, which is not installed",
            hint="pip install kubernetes",
        ) from error


def _with_environment(
    kind: Any, environment: Mapping[str, str], kept: frozenset[str] | None = None
) -> Any:
    """A provider whose programs get this environment, and of ``SLURM_*`` only `kept`."""
    env = {
        name: value
        for name, value in environment.items()
        if kept is None or not name.startswith(("SLURM_", "SBATCH_")) or name in kept
    }

    class WithEnvironment(kind):
        said = ""

        def execute_wait(self, cmd: str, timeout: int | None = None) -> tuple[int, str, str]:
            """Run a program of the scheduler: its exit code, stdout and stderr."""
            try:
                done = subprocess.run(  # noqa: S602 - Parsl's providers make shell commands
                    cmd,
                    shell=True,
                    env=env,
                    stdin=subprocess.DEVNULL,
                    capture_output=True,
                    text=True,
                    errors="replace",
                    timeout=timeout or COMMAND_SECONDS,
                    check=False,
                    start_new_session=True,
                )
            except subprocess.TimeoutExpired:
                words = f"`{cmd.split()[0]}` did not answer within {timeout or COMMAND_SECONDS} s"
                self.said = words
                return 124, "", words
            self.said = done.stderr.strip() or done.stdout.strip()
            return done.returncode, done.stdout, done.stderr

    return WithEnvironment


def _on_this_machine(kind: Any) -> Any:
    """A provider of blocks on this machine; cancelling a block waits until its processes end."""

    class OnThisMachine(kind):
        def __init__(self, **given: Any) -> None:
            super().__init__(**given)
            self._groups: dict[Any, int] = {}

        def submit(self, command: str, tasks_per_node: int, job_name: str = "block") -> Any:
            """Start a block, as a process group of its own."""
            job: Any = kind.submit(self, command, tasks_per_node, job_name)
            with contextlib.suppress(ProcessLookupError):
                group = os.getpgid(int(job))
                if group != os.getpgrp():
                    self._groups[job] = group
            return job

        def cancel(self, job_ids: list[Any]) -> list[bool]:
            """End blocks, and wait until no process of theirs is left."""
            groups = [group for job in job_ids if (group := self._groups.pop(job, None))]
            for job in job_ids:
                self.resources[job]["cancelled"] = True
            for group in groups:
                _signal(group, signal.SIGTERM)
            deadline = time.monotonic() + END_SECONDS
            for group in groups:
                while _signal(group, 0):
                    if time.monotonic() > deadline:
                        _signal(group, signal.SIGKILL)
                    time.sleep(0.05)
            return [True for _ in job_ids]

    return OnThisMachine


def _signal(group: int, number: int) -> bool:
    """Send a signal to a process group; returns whether it has processes."""
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return False
    return True
