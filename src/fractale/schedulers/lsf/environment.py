"""The environment of an LSF job: variables and programs.

Variables: "Environment variables set for job execution" of IBM Spectrum LSF 10.1. Launchers:
jsrun(1) of IBM's Job Step Manager, which only some sites have, and LLNL's lrun; fractale only
reads these two. Other sites use MPI's own ``mpiexec``.
"""

from __future__ import annotations

from typing import Final

from fractale.schedulers.environment import Environment, Flag, Launcher, Name
from fractale.schedulers.pbs.environment import MPIEXEC, read_env

_NO: Final = Flag(argument="none")
_OWN: Final = Flag()

_JSRUN: Final = {
    ("-n", "--nrs"): Flag(key="sets"),
    ("-a", "--tasks_per_rs"): Flag(key="tasks_per_set"),
    ("-c", "--cpu_per_rs"): Flag(key="cores_per_set"),
    ("-g", "--gpu_per_rs"): Flag(key="gpus_per_set"),
    ("-r", "--rs_per_host"): Flag(key="sets_per_node"),
    ("-p", "--np"): Flag(key="tasks"),
    ("-h", "--chdir"): Flag(key="workdir"),
    ("-E", "--env"): Flag(read=read_env),
    ("-X", "--exit_on_error"): Flag(key="kill", values={"1": "yes", "0": ""}),
    ("-o", "--stdio_stdout"): Flag(key="output"),
    ("-k", "--stdio_stderr"): Flag(key="error"),
    ("-t", "--stdio_input"): Flag(key="input"),
    ("-b", "--bind"): Flag(key="bind", values={"none": "none"}),
    # "packed" is the default order of other launchers.
    ("-d", "--launch_distribution"): Flag(
        key="distribution", values={"packed": "", "cyclic": "cyclic"}
    ),
}
_JSRUN_OWN: Final = (
    "-D --env_eval -l --latency_priority -M --smpiargs -m --memory_per_rs -e --stdio_mode"
    " -K --rs_per_socket -P --pre_post_exec -I --immediate_mode -U --use_resources"
    " -S --save_resources --erf_output -J --use_reservation -L --use_spindle -Z --stepid"
    " -y --steps"
)
_JSRUN_SWITCHES: Final = (
    "-i --immediate -F --env_no_propagate -v --version --print_placement -V --verbose"
)

_LRUN: Final = {
    "-n": Flag(key="tasks"),
    "-N": Flag(key="nodes"),
    "-T": Flag(key="tasks_per_node"),
    "-c": Flag(key="cores_per_task"),
    "-g": Flag(key="gpus_per_task"),
    **dict.fromkeys(("--smt", "--mpibind", "-W", "--bind", "--gpubind", "--threads"), _OWN),
    **dict.fromkeys(("-v", "-M", "--verbose", "--nolbind", "--pack"), _NO),
}


def _jsrun() -> dict[str, Flag]:
    found = dict.fromkeys(_JSRUN_OWN.split(), _OWN) | dict.fromkeys(_JSRUN_SWITCHES.split(), _NO)
    # Several programs in one launch (MPMD), described in a file.
    found |= dict.fromkeys(("-A", "--appfile", "-f", "--erf_input"), Flag(essential=True))
    return found | {name: flag for names, flag in _JSRUN.items() for name in names}


# LSF's wrapper around the mpirun of an MPI: its other options belong to that MPI.
_WRAPPER: Final = Launcher(options={each: Flag(key="tasks") for each in ("-np", "-n")}, glued=False)

ENVIRONMENT: Final = Environment(
    name="lsf",
    title="LSF",
    variables={
        # For an element of an array, it is the id of the array.
        "LSB_JOBID": "job_id",
        "LSB_JOBINDEX": "array_index",
        "LSB_JOBINDEX_END": "array_last",
        "LSB_JOBINDEX_STEP": "array_step",
        "LSB_JOBNAME": "name",
        "LS_SUBCWD": "submit_folder",
        "LSB_SUB_HOST": "submit_host",
        "LSB_SUB_USER": "user",
        "LSB_QUEUE": "queue",
        "LSB_PROJECT_NAME": "account",
        "LSB_HOSTS": "host_words",
        "LSB_DJOB_HOSTFILE": "slot_file",
        "LSB_DJOB_NUMPROC": "tasks",
        "LSB_MAX_NUM_PROCESSORS": "tasks",
    },
    names={
        "job_id": Name(name="LSB_JOBID"),
        "array_id": Name(name="LSB_JOBID"),
        "array_index": Name(name="LSB_JOBINDEX"),
        "array_last": Name(name="LSB_JOBINDEX_END"),
        "array_step": Name(name="LSB_JOBINDEX_STEP"),
        "submit_folder": Name(name="LS_SUBCWD"),
        "submit_host": Name(name="LSB_SUB_HOST"),
        "name": Name(name="LSB_JOBNAME"),
        "queue": Name(name="LSB_QUEUE"),
        "account": Name(name="LSB_PROJECT_NAME"),
        "slot_file": Name(name="LSB_DJOB_HOSTFILE"),
        "host_words": Name(name="LSB_HOSTS"),
    },
    commands={
        "nodes": 'sort -u "$LSB_DJOB_HOSTFILE" | wc -l',
        "node_list": 'sort -u "$LSB_DJOB_HOSTFILE" | paste -sd, -',
        "host_lines": 'sort -u "$LSB_DJOB_HOSTFILE"',
    },
    pattern=r"LSB_\w+|LS_(?:SUBCWD|JOBID|JOBPID|EXEC_T|HOSTS)|LSF_\w+|BSUB_\w+",
    programs={
        "bsub": "submits a script",
        "bjobs": "lists jobs",
        "bkill": "cancels jobs",
        "bmod": "changes jobs",
        "bpeek": "shows what a job wrote",
        "bhist": "shows the history of jobs",
        "bacct": "shows the accounts of jobs",
        "bqueues": "lists queues",
        "bhosts": "lists hosts",
        "bstop": "holds jobs",
        "bresume": "releases jobs",
        "bwait": "waits for jobs",
        "blaunch": "starts a program on a host of the job",
        "lsrun": "starts a program on a host",
        "jsrun": "starts a parallel program",
        "lrun": "starts a parallel program",
        "jslist": "lists the resources of jsrun",
        "js_task_info": "shows where jsrun's processes run",
        "mpirun.lsf": "starts a parallel program",
        "mpiexec.lsf": "starts a parallel program",
        "aprun": "starts a parallel program",
    },
    own_job={"cancel": "bkill {}", "show": "bjobs -l {}"},
    launchers={
        "jsrun": Launcher(
            options=_jsrun(), tasks="sets", file=lambda name: None if "%" in name else name
        ),
        "lrun": Launcher(options=_LRUN),
        "mpirun.lsf": _WRAPPER,
        "mpiexec.lsf": _WRAPPER,
    },
    launch=MPIEXEC,
    modules=("lsf",),
)
