"""A `script` step: a short program on this machine, whose stdout is the step's answer.

The program is a local job (`fractale.graph.kinds.job`) that does not wait in the queue. So it
outlives fractale. A resumed run waits for the same process and reads its end, or asks the user if
nothing shows how it ended.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from fractale.graph.kinds import Compiler
from fractale.graph.kinds.job import job_graph, run_job

if TYPE_CHECKING:
    from fractale.graph.step import StepNode


def build(node: StepNode, compiler: Compiler) -> StepNode:
    """A step that runs one program."""
    del compiler
    return replace(node, perform=run_job, inside=job_graph().compile())
