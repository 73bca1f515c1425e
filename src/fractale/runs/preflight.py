"""What can be known to fail before anything is run."""

from __future__ import annotations

from fractale.errors import PlanError, Problem, SettingsError
from fractale.models import Models
from fractale.plan.check import check_against_tools, check_plan
from fractale.plan.model import Plan, Step
from fractale.toolbox import Toolbox


async def preflight(plan: Plan, toolbox: Toolbox, models: Models) -> None:
    """Find what would fail before anything is run.

    Raises:
        PlanError: The plan is invalid, or names tools or prompts that are not there.
        SettingsError: A model that the plan needs cannot be used.
    """
    problems = [p for p in check_plan(plan) if p.severity == "error"]
    if not problems and all(server.connected for server in await toolbox.servers()):
        problems = [p for p in await check_online(plan, toolbox) if p.severity == "error"]
    if problems:
        raise PlanError(problems)
    for name in models_of(plan):
        models.check(name)
        if plan.limits.cost is not None and models.cost(models.spec(name), 1, 1) is None:
            spec = models.spec(name)
            raise SettingsError(
                f"the plan limits its cost, but the price of {spec} is not known",
                hint=f"add `prices: {{{spec}: {{input: …, output: …}}}}` to the settings",
            )


async def check_online(plan: Plan, toolbox: Toolbox) -> list[Problem]:
    """What is wrong with the plan's tools, prompts and arguments, by the servers' schemas."""
    tools = {
        name: {"input_schema": tool.input_schema, "output_schema": tool.output_schema}
        for tool in await toolbox.tools()
        for name in (tool.name, tool.qualified_name)
    }
    prompts = {p.name: {"arguments": list(p.arguments)} for p in await toolbox.prompts()}
    return check_against_tools(plan, tools, prompts)


def models_of(plan: Plan) -> list[str | None]:
    """The `model:` of every step that needs one, each once; None stands for the default."""
    names: list[str | None] = []
    for step in plan.walk():
        own: list[str | None] = models_of(step.plan) if step.plan else []
        if needs_model(step):
            own = [step.model, *own]
        names += [name for name in own if name not in names]
    return names


def needs_model(step: Step) -> bool:
    """Whether the step may ask a model."""
    general = step.kind == "agent" and step.target in (None, "ask", "ask_question")
    return step.kind == "prompt" or general or step.judge
