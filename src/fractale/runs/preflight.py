"""Finds errors that can be known before anything is run."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from fractale.agents.catalog import Catalog
from fractale.errors import AnswerError, PlanError, Problem, SettingsError, ToolError
from fractale.graph.bindings import Bindings, Unclear, resolve
from fractale.models import Models
from fractale.plan.check import check_against_tools, check_plan, in_order
from fractale.plan.model import Plan
from fractale.plan.needs import models_of, named_tools, prompts_of
from fractale.plan.paths import without_indexes
from fractale.questions.answers import ANY_STEP
from fractale.record.snapshot import names_needed
from fractale.runs.workspace import Extensions, Workspace, servers_of
from fractale.settings import Settings
from fractale.text import did_you_mean
from fractale.toolbox import Toolbox


async def preflight(
    plan: Plan,
    toolbox: Toolbox,
    models: Models,
    agents: Catalog,
    bindings: Bindings,
    *,
    checked: bool = False,
) -> None:
    """Find errors before anything is run, and bind the names of tools in the plan.

    Args:
        checked: Whether an earlier run of the same `Plan` found it valid in itself.

    Raises:
        PlanError: The plan is invalid, or names tools or prompts that were not found. Or another
            server, which did not answer, may also have a tool of that name.
        SettingsError: A model that the plan needs cannot be used.
    """
    found = await check_online(plan, toolbox, agents, only_needed=True, bindings=bindings)
    if not all(server.connected for server in await toolbox.servers(())):
        # A missing tool may be on a server that is not connected. Its step reports that.
        found = [p for p in found if p.missing is None]
    unclear = await bind_names(plan, toolbox, agents, bindings)
    problems = in_order([*(() if checked else check_plan(plan)), *found, *unclear])
    if errors := [p for p in problems if p.severity == "error"]:
        raise PlanError(errors)
    for name in models_of(plan):
        models.check(name)
        if plan.limits.cost is not None and models.cost(models.spec(name), 1, 1) is None:
            spec = models.spec(name)
            raise SettingsError(
                f"the plan limits its cost, but the price of {spec} is not known",
                hint=f"add `prices: {{{spec}: {{input: …, output: …}}}}` to the settings",
            )


async def bind_names(
    plan: Plan, toolbox: Toolbox, agents: Catalog, bindings: Bindings
) -> list[Problem]:
    """Bind the tools that steps of the plan name. Returns the names that may be ambiguous.

    A name that is not found now is bound when its step is entered.
    """
    found: list[Problem] = []
    for name, steps in named_tools(plan, agents.names()).items():
        try:
            await resolve(toolbox, bindings, name)
        except Unclear as error:
            words = f"{error.message}; {error.hint}"
            found += [Problem("unclear-tool", words, s.position, f"step `{s.name}`") for s in steps]
        except ToolError:
            continue  # its step reports it
    return found


async def check_online(
    plan: Plan,
    toolbox: Toolbox,
    agents: Catalog,
    *,
    only_needed: bool = False,
    bindings: Bindings | None = None,
) -> list[Problem]:
    """The errors in the plan's tools, prompts and arguments, by the servers' schemas.

    Args:
        only_needed: Whether to wait only for servers that the plan needs.
        bindings: The names that are bound already.
    """
    of_tools = await names_needed(plan, toolbox, agents.names()) if only_needed else None
    of_prompts = prompts_of(plan, agents.names()) if only_needed else None
    tools = {
        name: {"input_schema": tool.input_schema, "output_schema": tool.output_schema}
        for tool in await toolbox.tools(of_tools)
        for name in (tool.name, tool.qualified_name)
    }
    for name, bound in (bindings or Bindings()).names.items():
        tools.pop(name, None)
        if bound.qualified_name in tools:
            tools[name] = tools[bound.qualified_name]
    prompts = {p.name: {"arguments": list(p.arguments)} for p in await toolbox.prompts(of_prompts)}
    # The inputs of a sub-agent are known by its import. Only those that a step asks are imported.
    asked = _asked_by(plan)
    own: dict[str, dict[str, Any]] = {name: {} for name in agents.names()}
    own |= {
        agent.name: {"input_schema": agent.input_schema, "output_schema": agent.output_schema}
        for agent in agents.matching(lambda name: name in asked)
    }
    return check_against_tools(plan, tools, prompts, own)


async def tool_inputs(toolbox: Toolbox) -> dict[str, Mapping[str, Any]]:
    """The JSON Schema of each tool's inputs, by its name and by its name with its server's."""
    return {
        name: tool.input_schema
        for tool in await toolbox.tools()
        for name in (tool.name, tool.qualified_name)
    }


async def check_local(plan: Plan, settings: Settings, extensions: Extensions) -> list[Problem]:
    """As `check_online`, by the tools that this process serves. No server is asked.

    If no registry has a name, that is an error only if no server can have it.

    Raises:
        PlanError: A registry file is wrong. The error has every problem.
    """
    try:
        others = bool(servers_of(settings, plan))
    except SettingsError as error:
        return [Problem("unknown-server", error.message, plan.position, "servers")]
    alone = replace(settings, servers={})
    here = replace(plan, servers=None)
    async with Workspace.open(alone, here, extensions) as workspace:
        found = await check_online(plan, workspace.toolbox, workspace.agents)
    return [_perhaps_elsewhere(p) if others and p.missing else p for p in found]


def _perhaps_elsewhere(problem: Problem) -> Problem:
    message = (
        f"no registry on the command line has `{problem.missing}`; check the servers with --online"
    )
    return replace(problem, message=message, severity="warning")


def _asked_by(plan: Plan) -> set[str]:
    """The sub-agents that steps name, including those of included plans."""
    names = {step.target for step in plan.walk() if step.kind == "agent" and step.target}
    return names.union(*(_asked_by(step.plan) for step in plan.walk() if step.plan))


# -- answers given beforehand ----------------------------------------------------------------------

_QUESTION_ID = re.compile(r"[0-9a-f]{32}")


def check_answers(answers: Mapping[str, Any], plan: Plan) -> None:
    """Check that each answer is for a step of the plan, before anything runs.

    Steps that are drafted while the plan runs are not known yet. If a plan can have such steps, any
    name is accepted.

    Raises:
        AnswerError: The plan has no such step, or several steps of that name.
    """
    paths = list(_paths(plan))
    names = [path.rpartition("/")[2] for path in paths]
    for key in answers:
        step = without_indexes(key)
        if key == ANY_STEP or step in paths or _QUESTION_ID.fullmatch(key):
            continue
        if names.count(step) > 1:
            several = ", ".join(path for path in paths if path.endswith(f"/{step}"))
            raise AnswerError(
                f"the answer to `{key}` could belong to any of: {several}",
                hint="write the full path of the step",
            )
        if step not in names and not _drafts(plan):
            steps = f"its steps: {', '.join(paths)}"
            hint = did_you_mean(step, [*paths, *names], otherwise=steps)
            raise AnswerError(f"{plan.file} has no step `{key}` to answer", hint=hint)


def _paths(plan: Plan, prefix: str = "") -> Iterator[str]:
    """The paths of all steps, those of parallel blocks, chains and included plans too."""
    for step in plan.steps:
        path = f"{prefix}{step.name}"
        yield path
        yield from (f"{path}/{inner.name}" for inner in step.steps)
        if step.inner is not None:
            yield from _paths(step.inner, f"{path}/")
        for inner in step.steps:
            if inner.inner is not None:
                yield from _paths(inner.inner, f"{path}/{inner.name}/")
    for name, handler in plan.handlers.items():
        yield from _paths(handler, f"{prefix}{name}/")


def _drafts(plan: Plan) -> bool:
    """Whether the planner may draft steps in this plan."""
    inside = [step.plan for step in plan.walk() if step.plan is not None]
    drafted = any(step.kind == "plan" and step.plan is None for step in plan.walk())
    return drafted or any(_drafts(each) for each in inside)
