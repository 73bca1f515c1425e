"""The environment of a Flux job: variables and programs.

Variables: flux-environment(7) of flux-core 0.88. A batch script is the initial program of a
separate instance. In that instance, FLUX_JOB_ID and similar variables are *unset*, and the job's
id is FLUX_ENCLOSING_ID ("INITIAL PROGRAM ENVIRONMENT"), also in the processes of ``flux run``.
Options: flux-run(1) of the same release, and its `flux.cli.base`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from fractale.schedulers.environment import Environment, Flag, Launcher, Name, Writing

_NO: Final = Flag(argument="none")
_OWN: Final = Flag()
_OF_JOB: Final = Flag(of_job=True)

# flux-run(1), "SHELL OPTIONS".
_SHELL_OPTIONS: Final[Mapping[str, Mapping[str, str]]] = {
    "cpu-affinity=off": {"bind": "none"},
    "cpu-affinity=on": {},
    "cpu-affinity=per-task": {"bind": "cores"},
    "gpu-affinity=on": {},
    "exit-on-error": {"kill": "yes"},
    "exit-on-error=1": {"kill": "yes"},
    "pmi=simple": {},
    "pmi=pmix": {"mpi": "pmix"},
    "pmi=off": {"mpi": "none"},
}


def _env(value: str) -> Mapping[str, str] | None:
    """``NAME=value``; other rules copy or remove variables."""
    plain = re.fullmatch(r"[A-Za-z_]\w*=[^\s'\"]*", value)
    return {"variables": value} if plain else None


_MARK: Final = re.compile(r"\{\{\s*([\w.]*)\s*\}\}")
_MARKS: Final = {
    # The id of the launch, which is a job in the job's own instance.
    **dict.fromkeys(("id", "jobid"), "step"),
    "node.id": "node",
    "node.name": "host",
    **dict.fromkeys(("task.rank", "task.id", "taskid", "rank"), "task"),
}


def _file(value: str) -> str | None:
    """flux-run(1), "MUSTACHE TEMPLATES"."""
    if not all(mark in _MARKS for mark in _MARK.findall(value)):
        return None
    text = _MARK.sub(lambda match: f"{{{{{_MARKS[match[1]]}}}}}", value)
    return None if "{{" in _MARK.sub("", value) else text


_RUN: Final = {
    "-n": Flag(key="tasks"),
    "--ntasks": Flag(key="tasks"),
    "-N": Flag(key="nodes"),
    "--nodes": Flag(key="nodes"),
    "-c": Flag(key="cores_per_task"),
    "--cores-per-task": Flag(key="cores_per_task"),
    "-g": Flag(key="gpus_per_task"),
    "--gpus-per-task": Flag(key="gpus_per_task"),
    "--tasks-per-node": Flag(key="tasks_per_node"),
    "--gpus-per-node": Flag(key="gpus_per_node"),
    "-l": Flag(key="label", argument="none"),
    "--label-io": Flag(key="label", argument="none"),
    "-u": Flag(key="unbuffered", argument="none"),
    "--unbuffered": Flag(key="unbuffered", argument="none"),
    "--output": Flag(key="output"),
    "--error": Flag(key="error"),
    "--input": Flag(key="input"),
    "--cwd": Flag(key="workdir"),
    "--job-name": Flag(key="name"),
    "--taskmap": Flag(key="distribution", values={"block": "", "cyclic": "cyclic"}),
    "-o": Flag(read=lambda value: _SHELL_OPTIONS.get(value)),
    "--setopt": Flag(read=lambda value: _SHELL_OPTIONS.get(value)),
    "--env": Flag(read=lambda value: _env(value)),
    # Whole nodes of the job's own instance.
    "-x": Flag(key="whole_nodes", argument="none"),
    "--exclusive": Flag(key="whole_nodes", argument="none"),
    **dict.fromkeys(("-t", "--time-limit", "-q", "--queue", "-B", "--bank"), _OF_JOB),
    **dict.fromkeys(("--urgency", "--dependency", "--requires", "--begin-time"), _OF_JOB),
    **dict.fromkeys(("-S", "--setattr", "--add-file"), _OWN),
    **dict.fromkeys(("--env-remove", "--env-file", "--rlimit", "--flags"), _OWN),
    **dict.fromkeys(("--signal", "--wait-event", "--require"), _OWN),
    **dict.fromkeys(("--cores", "--tasks-per-core"), Flag(essential=True)),
    **dict.fromkeys(("-v", "-vv", "--verbose", "--dry-run", "--quiet", "--debug-emulate"), _NO),
}

ENVIRONMENT: Final = Environment(
    name="flux",
    title="Flux",
    variables={
        "FLUX_ENCLOSING_ID": "job_id",
        # Unset in a batch script, but scripts use it all the same.
        "FLUX_JOB_ID": "job_id",
        "FLUX_JOB_SIZE": "tasks",
        "FLUX_JOB_NNODES": "nodes",
        "FLUX_JOB_CC": "array_index",
        "FLUX_TASK_RANK": "rank",
        "FLUX_TASK_LOCAL_ID": "local_rank",
    },
    names={
        "job_id": Name(name="FLUX_ENCLOSING_ID"),
        # flux-submit(1): set by --cc.
        "array_index": Name(name="FLUX_JOB_CC"),
        "rank": Name(name="FLUX_TASK_RANK"),
        "local_rank": Name(name="FLUX_TASK_LOCAL_ID"),
    },
    commands={
        # flux-broker-attributes(7): the brokers of the job's instance, one per node. (The output
        # of `flux resource list` has one line per state while a program runs.)
        "nodes": "flux getattr size",
        # flux-environment(7), "INITIAL PROGRAM ENVIRONMENT".
        "node_list": "flux getattr hostlist",
        # flux-hostlist(1), "EXAMPLES".
        "host_lines": r"flux hostlist -led'\n'",
    },
    printed={
        "flux getattr size": "nodes",
        "flux resource list -n -o {nnodes}": "nodes",
        "flux resource list -no {nnodes}": "nodes",
        "flux getattr hostlist": "node_list",
        "flux hostlist local": "node_list",
        "flux hostlist -l": "node_list",
        r"flux hostlist -led'\n'": "host_lines",
        r"flux hostlist -led '\n'": "host_lines",
    },
    pattern=r"FLUX_(?:JOB|TASK|ENCLOSING|KVS|PMI|QUEUE|PROXY|RESOURCE)_\w+|FLUX_URI",
    programs={"flux": "speaks to Flux"},
    subcommands={
        "flux": (
            "run|submit|batch|alloc|mini|bulksubmit|jobs?|resource|start|proxy|getattr|setattr"
            "|kvs|cancel|queue|exec|hostlist|module|watch|mini|uptime|broker|top|pgrep|pkill"
            "|uri|env|python|dmesg|cron|archive|filemap|shutdown|overlay|ping|event|version"
            "|(?:--parent|-p)[ \\t]+\\w+"
        )
    },
    does={
        "starts a parallel program": "flux run",
        "submits a script": "flux batch",
        "asks for an allocation": "flux alloc",
        "lists jobs": "flux jobs",
        "cancels jobs": "flux cancel",
        "lists partitions": "flux queue list",
        "lists queues": "flux queue list",
        "lists nodes": "flux resource list",
        "waits for jobs": "flux job wait",
        "shows what a job wrote": "flux job attach",
        "attaches to a job's step": "flux job attach",
        "copies a file to the job's nodes": "flux archive",
        "starts a program on each of the job's nodes": "flux exec",
    },
    # The job belongs to the enclosing instance.
    own_job={"cancel": "flux --parent cancel {}", "show": "flux --parent jobs {}"},
    launchers={
        "flux run": Launcher(options=_RUN, tasks="one", abbreviated=True, file=_file),
        "flux mini run": Launcher(options=_RUN, tasks="one", abbreviated=True, file=_file),
    },
    launch=Writing(
        program="flux run",
        options={
            "nodes": "-N {}",
            "tasks": "-n {}",
            "cores_per_task": "-c {}",
            "gpus_per_task": "-g {}",
            "label": "-l",
            "unbuffered": "-u",
            "output": "--output={}",
            "error": "--error={}",
            "input": "--input={}",
            "workdir": "--cwd={}",
            "name": "--job-name={}",
            "kill": "-o exit-on-error",
            "bind": "-o cpu-affinity={}",
            "distribution": "--taskmap={}",
            "hosts": "--requires=host:{}",
            "mpi": "-o pmi={}",
            "variables": "--env={}",
            "whole_nodes": "--exclusive",
            # Flux's programs have their cores to themselves by default.
            "alone": "",
        },
        values={
            "bind": {"none": "off", "cores": "per-task"},
            "mpi": {"pmix": "pmix", "none": "off"},
        },
        tasks="one",
        marks={
            "id": "${FLUX_ENCLOSING_ID}",
            "step": "{{id}}",
            "index": "${FLUX_JOB_CC}",
            "user": "${USER}",
            "host": "{{node.name}}",
            "node": "{{node.id}}",
            "task": "{{task.rank}}",
        },
        reasons={
            # flux-run(1), "PER-RESOURCE OPTIONS".
            "tasks_per_node": "left out: `flux run` has `--tasks-per-node` without `-n` only",
            "gpus_per_node": "left out: `flux run` has `--gpus-per-node` without `-n` only",
        },
    ),
    # The mpirun of Open MPI and of MPICH does not ask Flux for hosts.
    finds_hosts=False,
    whole_nodes=True,
    modules=("flux", "flux-core"),
)
