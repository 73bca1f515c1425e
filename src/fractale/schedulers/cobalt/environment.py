"""The environment of a Cobalt job: variables and programs. fractale only reads Cobalt scripts.

Variables: qsub(1) of Cobalt 1.0 and Argonne's guides for Theta and Mira. The node file has one
line per node.
"""

from __future__ import annotations

from typing import Final

from fractale.schedulers.environment import Environment
from fractale.schedulers.pbs.environment import APRUN

ENVIRONMENT: Final = Environment(
    name="cobalt",
    title="Cobalt",
    variables={
        "COBALT_JOBID": "job_id",
        "COBALT_JOBSIZE": "nodes",
        "COBALT_PARTSIZE": "nodes",
        "COBALT_NODEFILE": "host_file",
    },
    names={},
    commands={},
    pattern=r"COBALT_\w+",
    programs={
        "qsub": "submits a script",
        "cqsub": "submits a script",
        "qstat": "lists jobs",
        "qdel": "cancels jobs",
        "qalter": "changes jobs",
        "cqwait": "waits for jobs",
        "runjob": "starts a program on a Blue Gene",
        "aprun": "starts a parallel program",
    },
    own_job={"cancel": "qdel {}", "show": "qstat -f {}"},
    launchers={"aprun": APRUN},
    launch=None,
    whole_nodes=True,
    modules=("cobalt",),
)
