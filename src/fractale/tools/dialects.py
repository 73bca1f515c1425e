"""How each workload manager writes what a job asks for.

A *fact* is one thing that a job asks for, in words that belong to no manager: ``nodes``,
``tasks``, ``tasks_per_node``, ``cores_per_task``, ``cores_per_node``, ``gpus_per_task``,
``gpus_per_node``, ``seconds``, ``queue``, ``job_name``, ``output``, ``error``, ``account``,
``workdir``, ``exclusive``. File names hold ``{{id}}`` and ``{{name}}``, as Flux writes them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from fractale.schedulers.flux.times import read_time as flux_seconds
from fractale.schedulers.flux.times import write_time as flux_duration
from fractale.schedulers.lsf.times import read_time as lsf_seconds
from fractale.schedulers.pbs.times import read_time as pbs_seconds
from fractale.schedulers.slurm.times import read_time as slurm_seconds
from fractale.schedulers.slurm.times import write_time as slurm_duration


def whole_number(text: str) -> int:
    """A whole number above zero.

    Raises:
        ValueError: The text is something else, such as the range ``2-4``.
    """
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"`{text}` is not one whole number above 0")
    return int(text)


def plain(text: str) -> str:
    """A name as it stands."""
    if not text:
        raise ValueError("it has no value")
    return text


def present(text: str) -> bool:
    """A switch: there, so true."""
    if text:
        raise ValueError(f"the form `={text}` has no counterpart")
    return True


def gpus(text: str) -> int:
    """How many GPUs, from ``4``, ``gpu:4`` or ``gpu:a100:4``."""
    return whole_number(text.rpartition(":")[2])


def gres_gpus(text: str) -> int:
    """The GPUs of a generic resource ``gpu:4``; no other resource has a counterpart."""
    if not text.startswith("gpu"):
        raise ValueError(f"the resource `{text}` has no counterpart")
    return gpus(text)


def ptile(text: str) -> int:
    """The tasks per node in LSF's ``span[ptile=4]``."""
    match = re.fullmatch(r"span\[ptile=(\d+)\]", text)
    if match is None:
        raise ValueError(f"the requirement `{text}` has no counterpart")
    return int(match[1])


def slurm_file(text: str) -> str:
    """A file name of Slurm: ``%j`` is the job's id and ``%x`` its name."""
    return _file(text, {"%j": "{{id}}", "%x": "{{name}}"})


def lsf_file(text: str) -> str:
    """A file name of LSF: ``%J`` is the job's id."""
    return _file(text, {"%J": "{{id}}"})


def _file(text: str, marks: Mapping[str, str]) -> str:
    for mark, neutral in marks.items():
        text = text.replace(mark, neutral)
    if left := re.search(r"%\w+", text):
        raise ValueError(f"the pattern `{left[0]}` in a file name has no counterpart")
    return plain(text)


def to_slurm_file(text: str) -> str:
    """A neutral file name as Slurm writes it."""
    return text.replace("{{id}}", "%j").replace("{{name}}", "%x")


@dataclass(frozen=True, slots=True)
class Option:
    """What one option means.

    Args:
        fact: The fact that it sets.
        read: Its value as the fact's; raises ValueError where it has no counterpart.
    """

    fact: str
    read: Callable[[str], Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """How one manager writes directives.

    Args:
        sentinel: What a directive's line begins with.
        options: Long name → meaning.
        short: Short name → long name.
        others: Long names of options that it knows and that have no counterpart elsewhere.
        single_dash: Whether long names are written with one dash.
        write: Fact → option and value, where fractale writes this dialect.
    """

    sentinel: re.Pattern[str]
    options: Mapping[str, Option]
    short: Mapping[str, str] = field(default_factory=dict[str, str])
    others: frozenset[str] = frozenset()
    single_dash: bool = False
    write: Mapping[str, tuple[str, Callable[[Any], str]]] = field(
        default_factory=dict[str, tuple[str, Callable[[Any], str]]]
    )

    def flag(self, option: str) -> str:
        """An option's name as it is written."""
        return f"-{option}" if self.single_dash or len(option) == 1 else f"--{option}"


SLURM = Dialect(
    sentinel=re.compile(r"#SBATCH\s+"),
    options={
        "nodes": Option("nodes", whole_number),
        "ntasks": Option("tasks", whole_number),
        "ntasks-per-node": Option("tasks_per_node", whole_number),
        "cpus-per-task": Option("cores_per_task", whole_number),
        "gpus-per-task": Option("gpus_per_task", gpus),
        "gpus-per-node": Option("gpus_per_node", gpus),
        "gres": Option("gpus_per_node", gres_gpus),
        "time": Option("seconds", slurm_seconds),
        "partition": Option("queue", plain),
        "job-name": Option("job_name", plain),
        "output": Option("output", slurm_file),
        "error": Option("error", slurm_file),
        "account": Option("account", plain),
        "chdir": Option("workdir", plain),
        "exclusive": Option("exclusive", present),
    },
    short={
        "N": "nodes",
        "n": "ntasks",
        "c": "cpus-per-task",
        "t": "time",
        "p": "partition",
        "J": "job-name",
        "o": "output",
        "e": "error",
        "A": "account",
        "D": "chdir",
        "G": "gpus",
        "C": "constraint",
        "d": "dependency",
        "a": "array",
        "q": "qos",
        "w": "nodelist",
        "x": "exclude",
    },
    write={
        "nodes": ("nodes", str),
        "tasks": ("ntasks", str),
        "cores_per_task": ("cpus-per-task", str),
        "gpus_per_task": ("gpus-per-task", str),
        "seconds": ("time", slurm_duration),
        "queue": ("partition", str),
        "job_name": ("job-name", str),
        "output": ("output", to_slurm_file),
        "error": ("error", to_slurm_file),
        "account": ("account", str),
        "workdir": ("chdir", str),
        "exclusive": ("exclusive", lambda _: ""),
    },
)

FLUX = Dialect(
    sentinel=re.compile(r"#\s*(?:FLUX|flux):\s*"),
    options={
        "nodes": Option("nodes", whole_number),
        "nslots": Option("tasks", whole_number),
        "cores-per-slot": Option("cores_per_task", whole_number),
        "gpus-per-slot": Option("gpus_per_task", whole_number),
        "time-limit": Option("seconds", flux_seconds),
        "queue": Option("queue", plain),
        "job-name": Option("job_name", plain),
        "output": Option("output", plain),
        "error": Option("error", plain),
        "bank": Option("account", plain),
        "cwd": Option("workdir", plain),
        "exclusive": Option("exclusive", present),
    },
    short={
        "N": "nodes",
        "n": "nslots",
        "c": "cores-per-slot",
        "g": "gpus-per-slot",
        "t": "time-limit",
        "q": "queue",
        "x": "exclusive",
        "o": "setopt",
        "S": "setattr",
        "B": "broker-opts",
        "u": "unbuffered",
        "l": "label-io",
        "v": "verbose",
    },
    others=frozenset(
        [
            "setopt",
            "setattr",
            "broker-opts",
            "unbuffered",
            "label-io",
            "verbose",
            "flags",
            "input",
            "requires",
            "dependency",
            "env",
            "env-remove",
            "env-file",
            "rlimit",
            "urgency",
            "add-file",
            "begin-time",
            "signal",
            "conf",
            "dump",
            "wrap",
            "quiet",
            "dry-run",
            "debug",
        ]
    ),
    write={
        "nodes": ("nodes", str),
        "tasks": ("nslots", str),
        "cores_per_task": ("cores-per-slot", str),
        "gpus_per_task": ("gpus-per-slot", str),
        "seconds": ("time-limit", flux_duration),
        "queue": ("queue", str),
        "job_name": ("job-name", str),
        "output": ("output", str),
        "error": ("error", str),
        "account": ("bank", str),
        "workdir": ("cwd", str),
        "exclusive": ("exclusive", lambda _: ""),
    },
)

PBS = Dialect(
    sentinel=re.compile(r"#PBS\s+"),
    options={
        "walltime": Option("seconds", pbs_seconds),
        "select": Option("nodes", whole_number),
        "nodes": Option("nodes", whole_number),
        "ppn": Option("tasks_per_node", whole_number),
        "mpiprocs": Option("tasks_per_node", whole_number),
        "ncpus": Option("cores_per_node", whole_number),
        "ngpus": Option("gpus_per_node", whole_number),
        "N": Option("job_name", plain),
        "q": Option("queue", plain),
        "o": Option("output", plain),
        "e": Option("error", plain),
        "A": Option("account", plain),
    },
    single_dash=True,
)

LSF = Dialect(
    sentinel=re.compile(r"#BSUB\s+"),
    options={
        "nnodes": Option("nodes", whole_number),
        "n": Option("tasks", whole_number),
        "W": Option("seconds", lsf_seconds),
        "q": Option("queue", plain),
        "J": Option("job_name", plain),
        "o": Option("output", lsf_file),
        "e": Option("error", lsf_file),
        "P": Option("account", plain),
        "R": Option("tasks_per_node", ptile),
        "cwd": Option("workdir", plain),
        "x": Option("exclusive", present),
    },
    single_dash=True,
)

DIALECTS: Mapping[str, Dialect] = MappingProxyType(
    {"slurm": SLURM, "flux": FLUX, "pbs": PBS, "lsf": LSF}
)

MARKS: Mapping[str, str] = MappingProxyType(
    {"slurm": "#SBATCH", "flux": "#FLUX:", "pbs": "#PBS", "lsf": "#BSUB"}
)
"""Manager → how its directives begin, for people and models."""

COUNTERPARTS: Mapping[str, str] = MappingProxyType(
    {
        "container-image": "Flux has no option for it; start the container in the script's body",
        "cpu-bind": "belongs to the launcher: `flux run -o cpu-affinity=per-task` in the body",
        "mem": "Flux does not schedule memory",
        "mem-per-cpu": "Flux does not schedule memory",
        "array": "use `flux bulksubmit` in place of a job array",
        "constraint": "the site's names differ: see `flux batch --requires`",
        "dependency": "job ids differ: see `flux batch --dependency`",
        "qos": "Flux has queues and banks, no QOS",
        "mail-type": "Flux sends no mail by itself",
        "mail-user": "Flux sends no mail by itself",
    }
)
"""Slurm's options without a counterpart that people meet most: what to do about them."""
