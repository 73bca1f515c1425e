"""What a plan needs of the outside, as far as the plan alone says."""

from __future__ import annotations

from fractale.plan.model import Plan, Step
from fractale.plan.words import GENERAL_AGENTS, MODEL_AGENTS


def needs_model(step: Step) -> bool:
    """Whether the step itself asks a model."""
    if step.kind == "agent":
        return step.judge or step.target in (*GENERAL_AGENTS, *MODEL_AGENTS)
    drafted = step.kind == "plan" and step.target is None
    return step.kind == "prompt" or drafted or step.judge


def models_of(plan: Plan) -> list[str | None]:
    """The `model:` of every step that needs one, each once; None stands for the default."""
    names: list[str | None] = []
    for step in plan.walk():
        own: list[str | None] = models_of(step.plan) if step.plan else []
        if needs_model(step):
            own = [step.model, *own]
        names += [name for name in own if name not in names]
    return names
