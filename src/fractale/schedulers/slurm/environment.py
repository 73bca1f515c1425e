"""The environment of a Slurm job: variables and programs.

Variables: sbatch(1), "OUTPUT ENVIRONMENT VARIABLES", and srun(1), of Slurm 22.05 and 24.05.
Options: srun(1) of the same releases.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from fractale.schedulers.environment import Environment, Flag, Launcher, Name, Writing

_NO: Final = Flag(argument="none")
_OWN: Final = Flag()
_MAYBE: Final = Flag(argument="optional")


def _gpus(key: str, value: str) -> Mapping[str, str]:
    """``4`` or ``a100:4``; the job's request already has the kind."""
    return {key: value.rpartition(":")[2]}


def _gres(value: str) -> Mapping[str, str] | None:
    """``gpu``, ``gpu:4`` or ``gpu:a100:4``, per node."""
    name, _, rest = value.partition(":")
    if name != "gpu" or "," in value:
        return {} if value == "none" else None
    return {"gpus_per_node": rest.rpartition(":")[2] or "1"}


def _export(value: str) -> Mapping[str, str] | None:
    """``ALL`` is also the default of other launchers; ``A=1,B=2`` without it exports less."""
    first, _, rest = value.partition(",")
    if first.upper() != "ALL" or '"' in rest or "'" in rest:
        return None
    names = [each for each in rest.split(",") if "=" in each]
    return {"variables": "\n".join(names)} if names else {}


# Names from srun's --mpi=list. Flux's own simple PMI does the same as pmi2.
_PMIX: Final = ("pmix", "pmix_v2", "pmix_v3", "pmix_v4", "pmix_v5")
_MPI: Final = {"pmi2": "", "none": "none"} | dict.fromkeys(_PMIX, "pmix")

# Options of srun(1) that other launchers also have …
_SHARED: Final = {
    ("--ntasks", "-n"): Flag(key="tasks"),
    ("--nodes", "-N"): Flag(key="nodes"),
    ("--ntasks-per-node", "--tasks-per-node"): Flag(key="tasks_per_node"),
    ("--cpus-per-task", "-c"): Flag(key="cores_per_task"),
    ("--gpus-per-task",): Flag(read=lambda value: _gpus("gpus_per_task", value)),
    ("--gpus-per-node",): Flag(read=lambda value: _gpus("gpus_per_node", value)),
    ("--gpus", "-G"): Flag(read=lambda value: _gpus("gpus", value)),
    ("--gres",): Flag(read=_gres),
    ("--label", "-l"): Flag(key="label", argument="none"),
    ("--unbuffered", "-u"): Flag(key="unbuffered", argument="none"),
    ("--output", "-o"): Flag(key="output"),
    ("--error", "-e"): Flag(key="error"),
    ("--input", "-i"): Flag(key="input"),
    ("--chdir", "-D"): Flag(key="workdir"),
    ("--job-name", "-J"): Flag(key="name"),
    ("--export",): Flag(read=_export),
    ("--kill-on-bad-exit", "-K"): Flag(
        key="kill", argument="optional", values={"": "yes", "1": "yes"}
    ),
    ("--cpu-bind", "--cpu_bind"): Flag(
        key="bind",
        values={each: each for each in ("none", "cores")} | {"no": "none", "core": "cores"},
    ),
    ("--distribution", "-m"): Flag(key="distribution", values={"block": "", "cyclic": "cyclic"}),
    ("--nodelist", "-w"): Flag(key="hosts"),
    ("--mpi",): Flag(key="mpi", values=_MPI),
    ("--jobid",): Flag(key="of_job"),
    # Steps of Flux have their resources to themselves; programs of mpiexec may share them.
    ("--exclusive",): Flag(key="alone", argument="optional", values={"": "yes"}),
    ("--exact",): Flag(key="alone", argument="none"),
}
# … and options that only srun has.
_VALUED: Final = (
    "--accel-bind --account -A --acctg-freq --bb --bbf --bcast-exclude --begin -b"
    " --cluster-constraint --clusters -M --comment --constraint -C --core-spec -S"
    " --cores-per-socket --cpu-freq --cpus-per-gpu --deadline --delay-boot --dependency -d"
    " --epilog --exclude -x --extra-node-info -B --gpu-bind --gpu-freq --gpus-per-socket"
    " --gres-flags --hint --licenses -L --mail-type --mail-user --mcs-label --mem --mem-bind"
    " --mem_bind --mem-per-cpu --mem-per-gpu --mincpus --mpi-params --msg-timeout --network"
    " --ntasks-per-core --ntasks-per-gpu --ntasks-per-socket --open-mode --partition -p --power"
    " --prefer --priority --profile --prolog --qos -q --reservation --signal --slurmd-debug"
    " --sockets-per-node --switches --task-epilog --task-prolog --thread-spec --threads -T"
    " --threads-per-core --time -t --time-min --tmp --treewidth --tres-bind --tres-per-job"
    " --tres-per-task --wait-all-nodes --uid --gid --wait -W --wckey --export-file"
)
_SWITCHES: Final = (
    "--contiguous --debugger-test --disable-status -X --external-launcher --help -h --hold -H"
    " --interactive --no-allocate -Z --no-kill -k --no-requeue --overcommit -O"
    " --overlap --oversubscribe -s --parallel-launch --preserve-env -E --quit-on-interrupt"
    " --quiet -Q --reboot --share --spread-job --test-only --use-min-nodes --usage"
    " --verbose -v -vv --version -V --whole"
)
_OPTIONAL: Final = (
    *("--bcast", "--compress", "--immediate", "-I", "--nice", "--propagate", "--resv-ports"),
    "--send-libs",
)
# Without these options, another program runs, or it runs elsewhere. The last ones are Pyxis'.
_ESSENTIAL: Final = (
    "--het-group --pack-group --relative -r --nodefile -F --container --container-id"
    " --container-image --container-mounts --container-name --container-workdir"
    " --container-env --container-save"
)
_ESSENTIAL_SWITCHES: Final = (
    "--multi-prog --pty --async --container-mount-home --no-container-mount-home"
    " --container-remap-root --no-container-remap-root --container-writable"
    " --container-readonly --no-container-entrypoint --container-entrypoint"
)


_OF_JOB: Final = (
    "--account -A --begin -b --clusters -M --comment --constraint -C --deadline --delay-boot"
    " --dependency -d --exclude -x --licenses -L --mail-type --mail-user --partition -p --prefer"
    " --priority --qos -q --reservation --switches --time -t --time-min --wckey"
)

_MARK: Final = re.compile(r"%(\d*)([A-Za-z%])")
_MARKS: Final = {
    "A": "array_id",
    "a": "index",
    "j": "id",
    "J": "step",
    "x": "name",
    "u": "user",
    "N": "host",
    "n": "node",
    "t": "task",
}


def _file(value: str) -> str | None:
    """srun(1), "FILENAME PATTERN"."""
    bare = value.strip("\"'")
    if bare == "all":
        return ""
    if bare == "none":
        return "/dev/null"
    found = _MARK.findall(value)
    if bare.isdecimal() or "\\" in value or "{{" in value:
        return None
    if any(width or letter not in (*_MARKS, "%") for width, letter in found):
        return None
    return _MARK.sub(lambda m: "%" if m[2] == "%" else f"{{{{{_MARKS[m[2]]}}}}}", value)


def _options() -> dict[str, Flag]:
    found = dict.fromkeys(_VALUED.split(), _OWN) | dict.fromkeys(_SWITCHES.split(), _NO)
    found |= dict.fromkeys(_OPTIONAL, _MAYBE)
    found |= dict.fromkeys(_OF_JOB.split(), Flag(of_job=True))
    found |= dict.fromkeys(_ESSENTIAL.split(), Flag(essential=True))
    found |= dict.fromkeys(_ESSENTIAL_SWITCHES.split(), Flag(argument="none", essential=True))
    return found | {name: flag for names, flag in _SHARED.items() for name in names}


ENVIRONMENT: Final = Environment(
    name="slurm",
    title="Slurm",
    variables={
        "SLURM_JOB_ID": "job_id",
        "SLURM_JOBID": "job_id",
        "SLURM_ARRAY_JOB_ID": "array_id",
        "SLURM_ARRAY_TASK_ID": "array_index",
        "SLURM_ARRAY_TASK_COUNT": "array_count",
        "SLURM_ARRAY_TASK_MIN": "array_first",
        "SLURM_ARRAY_TASK_MAX": "array_last",
        "SLURM_ARRAY_TASK_STEP": "array_step",
        "SLURM_SUBMIT_DIR": "submit_folder",
        "SLURM_SUBMIT_HOST": "submit_host",
        "SLURM_JOB_NAME": "name",
        "SLURM_JOB_NUM_NODES": "nodes",
        "SLURM_NNODES": "nodes",
        "SLURM_NTASKS": "tasks",
        "SLURM_NPROCS": "tasks",
        "SLURM_NTASKS_PER_NODE": "tasks_per_node",
        "SLURM_CPUS_PER_TASK": "cores_per_task",
        "SLURM_CPUS_ON_NODE": "cores_per_node",
        "SLURM_TASKS_PER_NODE": "tasks_by_node",
        "SLURM_JOB_CPUS_PER_NODE": "cores_by_node",
        "SLURM_JOB_NODELIST": "node_list",
        "SLURM_NODELIST": "node_list",
        "SLURM_JOB_PARTITION": "queue",
        "SLURM_JOB_ACCOUNT": "account",
        "SLURM_JOB_USER": "user",
        "SLURM_GPUS": "gpus",
        "SLURM_GPUS_PER_NODE": "gpus_per_node",
        "SLURM_GPUS_ON_NODE": "gpus_per_node",
        "SLURM_GPUS_PER_TASK": "gpus_per_task",
        "SLURM_MEM_PER_NODE": "megabytes_per_node",
        "SLURMD_NODENAME": "host",
        "SLURM_PROCID": "rank",
        "SLURM_LOCALID": "local_rank",
        "SLURM_NODEID": "node_rank",
    },
    conditional={
        "SLURM_NTASKS": ("tasks", "tasks_per_node"),
        "SLURM_NPROCS": ("tasks", "tasks_per_node"),
        "SLURM_NTASKS_PER_NODE": ("tasks_per_node",),
        "SLURM_CPUS_PER_TASK": ("cores_per_task",),
        "SLURM_GPUS": ("gpus",),
        "SLURM_GPUS_PER_NODE": ("gpus_per_node",),
        "SLURM_GPUS_PER_TASK": ("gpus_per_task",),
        "SLURM_MEM_PER_NODE": ("memory_per_node",),
    },
    names={
        "job_id": Name(name="SLURM_JOB_ID"),
        "array_id": Name(name="SLURM_ARRAY_JOB_ID"),
        "array_index": Name(name="SLURM_ARRAY_TASK_ID"),
        "array_count": Name(name="SLURM_ARRAY_TASK_COUNT"),
        "array_first": Name(name="SLURM_ARRAY_TASK_MIN"),
        "array_last": Name(name="SLURM_ARRAY_TASK_MAX"),
        "array_step": Name(name="SLURM_ARRAY_TASK_STEP"),
        "submit_folder": Name(name="SLURM_SUBMIT_DIR"),
        "submit_host": Name(name="SLURM_SUBMIT_HOST"),
        "name": Name(name="SLURM_JOB_NAME"),
        "nodes": Name(name="SLURM_JOB_NUM_NODES"),
        "tasks": Name(name="SLURM_NTASKS", said=("tasks",)),
        "tasks_per_node": Name(name="SLURM_NTASKS_PER_NODE", said=("tasks_per_node",)),
        "cores_per_task": Name(name="SLURM_CPUS_PER_TASK", said=("cores_per_task",)),
        "cores_per_node": Name(name="SLURM_CPUS_ON_NODE"),
        "node_list": Name(name="SLURM_JOB_NODELIST"),
        "queue": Name(name="SLURM_JOB_PARTITION"),
        "account": Name(name="SLURM_JOB_ACCOUNT"),
        "user": Name(name="SLURM_JOB_USER"),
        "host": Name(name="SLURMD_NODENAME"),
        "rank": Name(name="SLURM_PROCID"),
        "local_rank": Name(name="SLURM_LOCALID"),
        "node_rank": Name(name="SLURM_NODEID"),
    },
    commands={
        "host_lines": 'scontrol show hostnames "$SLURM_JOB_NODELIST"',
        # One line per task, on the task's host.
        "slot_lines": "srun hostname -s | sort",
    },
    printed={
        "scontrol show hostnames": "host_lines",
        "scontrol show hostname": "host_lines",
        "scontrol show hostnames $SLURM_JOB_NODELIST": "host_lines",
        "scontrol show hostname $SLURM_JOB_NODELIST": "host_lines",
        "scontrol show hostnames $SLURM_NODELIST": "host_lines",
        "scontrol show hostname $SLURM_NODELIST": "host_lines",
    },
    pattern=r"SLURMD?_\w+|SLURM_?TMPDIR|SBATCH_[A-Z]\w*|SRUN_[A-Z]\w*|SALLOC_[A-Z]\w*",
    programs={
        "srun": "starts a parallel program",
        "ibrun": "starts a parallel program",
        "sbatch": "submits a script",
        "salloc": "asks for an allocation",
        "squeue": "lists jobs",
        "scontrol": "shows and changes jobs and nodes",
        "scancel": "cancels jobs",
        "sacct": "lists the accounts of jobs",
        "sinfo": "lists partitions",
        "sstat": "shows what running jobs use",
        "sbcast": "copies a file to the job's nodes",
        "sattach": "attaches to a job's step",
        "seff": "shows how well a job used what it had",
        "sacctmgr": "shows and changes accounts",
    },
    own_job={"cancel": "scancel {}", "show": "scontrol show job {}"},
    launchers={
        "srun": Launcher(options=_options(), abbreviated=True, file=_file),
        # TACC's ibrun(1): one process per task of the job, unless -n sets another number.
        "ibrun": Launcher(
            options={"-n": Flag(key="tasks"), "-np": Flag(key="tasks"), "-o": _OWN, "-v": _NO},
            glued=False,
        ),
    },
    launch=Writing(
        program="srun",
        options={
            "nodes": "-N {}",
            "tasks": "-n {}",
            "tasks_per_node": "--ntasks-per-node={}",
            "cores_per_task": "-c {}",
            "gpus_per_task": "--gpus-per-task={}",
            "gpus_per_node": "--gpus-per-node={}",
            "gpus": "--gpus={}",
            "label": "-l",
            "unbuffered": "-u",
            "output": "--output={}",
            "error": "--error={}",
            "input": "--input={}",
            "workdir": "--chdir={}",
            "name": "--job-name={}",
            "kill": "--kill-on-bad-exit=1",
            "bind": "--cpu-bind={}",
            "distribution": "--distribution={}",
            "hosts": "--nodelist={}",
            "mpi": "--mpi={}",
            "alone": "--exact",
            "variables": "--export=ALL,{}",
        },
        separator=",",
        marks={mark: f"%{letter}" for letter, mark in _MARKS.items()},
        literal=lambda text: text.replace("%", "%%"),
    ),
    # sbatch(1), --exclusive: "all CPUs and GRES on the node".
    whole_nodes=True,
    modules=("slurm",),
)
