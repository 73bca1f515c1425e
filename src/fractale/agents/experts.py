"""Experts: the agents that a plan writes itself, as sub-agents.

An expert is the generalist with a role of its own. It works with the tools of the step or agent
that asks it, at most those that its entry lists.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from fractale.agents.ask import INPUTS
from fractale.agents.ask import run as run_generalist
from fractale.agents.subagent import AgentAnswer, AgentContext, AgentRequest, Subagent
from fractale.models import structured

if TYPE_CHECKING:
    from fractale.plan.model import Expert


def expert_agent(expert: Expert) -> Subagent:
    """The sub-agent of an expert."""
    return Subagent(
        name=expert.name,
        description=expert.summary,
        input_schema=INPUTS,
        output_schema=expert.output_schema,
        tools=expert.tools,
        model=expert.model,
        run=partial(_run, expert),
    )


async def _run(expert: Expert, ctx: AgentContext, request: AgentRequest) -> AgentAnswer:
    asked = request
    if request.schema is None and expert.output_schema is not None:
        asked = replace(request, schema=expert.output_schema)
    answer = await run_generalist(ctx, asked, name=expert.name, role=expert.instruction)
    if asked is request or answer.error or not answer.text:
        return answer
    # The step checks only a schema of its own.
    faults = structured.schema_errors(answer.outputs, expert.output_schema)
    if not faults:
        return answer
    words = f"the answer of `{expert.name}` does not fit its `output_schema`: {'; '.join(faults)}"
    return replace(answer, error=words)
