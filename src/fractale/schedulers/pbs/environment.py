"""The environment of a PBS job: variables and programs.

Variables: "Environment variables" of the PBS Professional user's guide 2021.1 and qsub(1B) of
OpenPBS 23.06. PBS_ARRAYID, PBS_NP, PBS_NUM_NODES, PBS_NUM_PPN and PBS_WALLTIME are Torque's (qsub
of Torque 6.1); fractale only reads them. PBS has no launcher: ``mpiexec`` belongs to MPI (MPI
standard, 11.5 "Portable MPI process startup"), and aprun(1) to Cray machines.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from fractale.schedulers.environment import Environment, Flag, Launcher, Name, Writing

_NO: Final = Flag(argument="none")
_OWN: Final = Flag()


def read_env(value: str) -> Mapping[str, str] | None:
    """``NAME=value``, of aprun and jsrun; a name alone is exported by default."""
    if re.fullmatch(r"[A-Za-z_]\w*", value):
        return {}
    plain = re.fullmatch(r"[A-Za-z_]\w*=[^\s'\"]*", value)
    return {"variables": value} if plain else None


APRUN: Final = Launcher(
    options={
        "-n": Flag(key="tasks"),
        "--pes": Flag(key="tasks"),
        "-N": Flag(key="tasks_per_node"),
        "--pes-per-node": Flag(key="tasks_per_node"),
        "-d": Flag(key="cores_per_task"),
        "--depth": Flag(key="cores_per_task"),
        "-L": Flag(key="hosts"),
        "-e": Flag(read=read_env),
        "--env": Flag(read=read_env),
        # Binding by depth is called "cores" by other launchers.
        "-cc": Flag(key="bind", values={"depth": "cores", "none": "none"}),
        "--cc": Flag(key="bind", values={"depth": "cores", "none": "none"}),
        "--cpu-binding": Flag(key="bind", values={"depth": "cores", "none": "none"}),
        "-B": Flag(key="as_job", argument="none"),
        # -b: do not copy the program to the nodes. Other launchers never copy it.
        "-b": Flag(key="alone", argument="none"),
        "--bypass-app-transfer": Flag(key="alone", argument="none"),
        **dict.fromkeys(("-S", "-j", "-m", "-r", "-p", "-P", "-sn", "-sl", "-F", "-t", "-C"), _OWN),
        **dict.fromkeys(("-a", "-D", "-R", "--mpmd-env", "-sr", "-pa", "--p-governor"), _OWN),
        **dict.fromkeys(("-ss", "-T", "-q", "-v", "-zz", "-y", "-g"), _NO),
    },
    tasks="one",
)
"""ALPS' aprun(1), on Cray machines under PBS and Cobalt."""

MPIEXEC: Final = Writing(
    program="mpiexec",
    options={"tasks": "-n {}", "workdir": "-wdir {}", "alone": "", "variables": "env {}"},
    separator=" ",
    implied=frozenset({"nodes", "tasks_per_node", "cores_per_task"}),
    tasks="all",
)
"""MPI's own mpiexec, with the options that every MPI has."""

ENVIRONMENT: Final = Environment(
    name="pbs",
    title="PBS",
    variables={
        "PBS_JOBID": "job_id",
        "PBS_JOBNAME": "name",
        "PBS_O_WORKDIR": "submit_folder",
        "PBS_O_HOST": "submit_host",
        "PBS_NODEFILE": "slot_file",
        "PBS_QUEUE": "queue",
        "PBS_O_QUEUE": "queue",
        "PBS_O_LOGNAME": "user",
        "PBS_O_HOME": "home",
        "PBS_ARRAY_ID": "array_id",
        "PBS_ARRAY_INDEX": "array_index",
        "PBS_ARRAYID": "array_index",
        "MOAB_JOBARRAYINDEX": "array_index",
        "NCPUS": "cores_per_node",
        "PBS_NP": "tasks",
        "PBS_NUM_NODES": "nodes",
        "PBS_NUM_PPN": "tasks_per_node",
        "PBS_WALLTIME": "seconds",
    },
    names={
        "job_id": Name(name="PBS_JOBID"),
        "array_id": Name(name="PBS_ARRAY_ID"),
        "array_index": Name(name="PBS_ARRAY_INDEX"),
        "submit_folder": Name(name="PBS_O_WORKDIR"),
        "submit_host": Name(name="PBS_O_HOST"),
        "name": Name(name="PBS_JOBNAME"),
        "queue": Name(name="PBS_QUEUE"),
        "slot_file": Name(name="PBS_NODEFILE"),
    },
    commands={
        "nodes": 'sort -u "$PBS_NODEFILE" | wc -l',
        "node_list": 'sort -u "$PBS_NODEFILE" | paste -sd, -',
        "host_lines": 'sort -u "$PBS_NODEFILE"',
        "host_words": "paste -sd' ' \"$PBS_NODEFILE\"",
    },
    pattern=r"PBS_\w+|PBS_?TMPDIR|MOAB_\w+|TORQUE_\w+|NCPUS",
    programs={
        "qsub": "submits a script",
        "qstat": "lists jobs",
        "qdel": "cancels jobs",
        "qalter": "changes jobs",
        "qhold": "holds jobs",
        "qrls": "releases jobs",
        "qselect": "finds jobs",
        "qrerun": "runs a job again",
        "qmgr": "manages PBS",
        "pbsdsh": "starts a program on each of the job's nodes",
        "pbs_tmrsh": "starts a program on one of the job's nodes",
        "pbsnodes": "lists nodes",
        "tracejob": "shows a job's log",
        "aprun": "starts a parallel program",
        "msub": "submits a script",
    },
    own_job={"cancel": "qdel {}", "show": "qstat -f {}"},
    launchers={"aprun": APRUN},
    launch=MPIEXEC,
    starts_in="home",
    modules=("pbs", "pbspro", "torque", "openpbs"),
)
