"""Sub-agents that users write: named by dotted path, listed in a registry, or in a package.

Importing a module runs it. So a dotted path is imported only if the user named it: on the command
line, or in a registry file that they named. A plan may come from a stranger, so its `agents:` can
only choose among registered agents.

A path names one of these:

- a `fractale.agents.subagent.Subagent`, which works inside the run with its model, budget and
  checkpoints,
- a LangGraph graph (`fractale.agents.graphs`), compiled or not, such as `create_agent` returns,
- as a sub-agent, not as a tool: a function that makes such a graph,
- a class as in fractale 0.1.0, which is served as a tool (`fractale.registry`).
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import EntryPoint
from typing import Any

from fractale.agents.catalog import BUILT_IN, GROUP, Catalog, installed
from fractale.agents.graphs import factory_agent, graph_agent, is_graph
from fractale.agents.subagent import Subagent
from fractale.errors import PlanError, Problem
from fractale.plan.model import AgentRef, Plan
from fractale.registry import Registry, RegistryEntry, import_entry, local_entries
from fractale.registry.imports import successor_of
from fractale.text import clip


def split_agents(registries: Sequence[Registry]) -> tuple[list[Subagent], list[Registry]]:
    """Separate the sub-agents in registries from the entries that are served as tools.

    It imports the modules that the registries name. A built-in agent replaces an agent of fractale
    0.1.0 with the same work. An entry that cannot be imported stays in its registry, which reports
    it with its other faults.

    Args:
        registries: From `load_registry` and `local_entries`.

    Returns:
        The sub-agents under the names of their entries, and the registries without them.

    Raises:
        PlanError: Two sub-agents have the same name.
    """
    found = [
        (entry, agent)
        for registry in registries
        for entry in registry.entries
        if (agent := _agent_of(entry)) is not None
    ]
    taken = [entry for entry, _ in found]
    rest = [
        replace(each, entries=tuple(entry for entry in each.entries if entry not in taken))
        for each in registries
    ]
    return _by_name(found), [each for each in rest if each.entries or each.warnings]


def with_named(
    registries: Sequence[Registry], agents: Sequence[str] = (), plan: Plan | None = None
) -> list[Registry]:
    """The registries, with the sub-agents that the command line and a plan name. Imports nothing.

    Args:
        agents: Dotted paths from the command line. They may name any module.
        plan: Its `agents` must be registered: built in, an installed package's entry point in the
            group ``fractale.agents``, listed in one of the registries, or named in `agents`.

    Raises:
        PlanError: The plan names sub-agents that are not registered. The error lists all of them.
    """
    found = [*registries, *([local_entries(agents)] if agents else [])]
    refs = plan.registered if plan else ()
    if not refs:
        return found
    known = {**_registered(), **{e.path: e for r in reversed(found) for e in reversed(r.entries)}}
    if problems := [_not_registered(ref) for ref in refs if _path_of(ref) not in known]:
        raise PlanError(problems)
    entries = tuple(_named(ref, known[_path_of(ref)]) for ref in refs)
    return [*found, Registry(file="agents", entries=entries)]


def _path_of(ref: AgentRef) -> str:
    """The path of a sub-agent. For an agent of 0.1.0, the path of its built-in successor."""
    instead = successor_of(ref.path)
    return ".".join(BUILT_IN[instead]) if instead else ref.path


def _registered() -> dict[str, RegistryEntry]:
    """Path → entry, of the sub-agents of fractale and of installed packages."""
    paths = [".".join(home) for home in BUILT_IN.values()]
    paths += [f"{each.module}.{each.attr}" for each in installed()]
    return {path: RegistryEntry(kind="agent", path=path) for path in paths}


def _named(ref: AgentRef, entry: RegistryEntry) -> RegistryEntry:
    kind = "agent" if entry.kind == "tool" else entry.kind
    return replace(entry, kind=kind, name=ref.name or entry.name, position=ref.position)


def _not_registered(ref: AgentRef) -> Problem:
    message = (
        f"`{ref.path}` is not registered as a sub-agent, and a plan imports no other module; "
        f"to register it, name it with `-a {ref.path}`, list it in a registry file and give that "
        f"with `-r FILE`, or install a package that has it as an entry point of `{GROUP}`"
    )
    return Problem("not-registered", message, ref.position, "agents", len(ref.path))


def _agent_of(entry: RegistryEntry) -> Subagent | None:
    if entry.kind not in ("tool", "agent"):
        return None
    try:
        found: Any = import_entry(entry)
    except PlanError:
        instead = successor_of(entry.path)
        found = Catalog().find(instead) if instead else None
    agent = _as_agent(found, entry)
    if agent is None:
        return None
    named = replace(agent, name=entry.name) if entry.name else agent
    return replace(named, path=entry.path)


def _as_agent(found: Any, entry: RegistryEntry) -> Subagent | None:
    """An object as a sub-agent; None if it is not one.

    Raises:
        PlanError: It is a graph that cannot be compiled.
    """
    if isinstance(found, Subagent):
        return found
    name = entry.path.rpartition(".")[2]
    if is_graph(found):
        try:
            return graph_agent(found, name)
        except Exception as error:
            message = f"`{entry.path}` is a graph that cannot be compiled: {_words(error)}"
            raise PlanError([entry.problem("not-an-agent", message)]) from error
    if entry.kind == "agent" and _may_make_graph(found):
        return factory_agent(found, name)
    return None


_PLAIN = frozenset({"str", "int", "float", "bool", "dict", "list", "None"})


def _may_make_graph(found: Any) -> bool:
    """Whether an object may be a function that makes a graph. Only its call can show it.

    A function that takes or returns plain data is a tool.
    """
    if not inspect.isroutine(found) or hasattr(found, "input_schema"):
        return False
    signature = inspect.signature(found)
    needed = [
        each.annotation
        for each in signature.parameters.values()
        if each.default is each.empty and each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)
    ]
    types = [*needed, signature.return_annotation]
    names = {str(getattr(each, "__name__", each)).partition("[")[0] for each in types}
    return len(needed) <= 1 and not names & _PLAIN


def _words(error: Exception) -> str:
    return clip(f"{type(error).__name__}: {error}", 300)


def as_agents(given: Sequence[Any] | Mapping[str, Any]) -> list[Subagent]:
    """Sub-agents from Python objects.

    Args:
        given: A `Subagent`, a LangGraph graph, or a function that makes a graph, several times; or
            name → such an object.

    Raises:
        PlanError: An object is not one of these, or two sub-agents have the same name.
    """
    named = given.items() if isinstance(given, Mapping) else [("", each) for each in given]
    found: list[tuple[RegistryEntry, Subagent]] = []
    problems: list[Problem] = []
    for index, (name, each) in enumerate(named):
        shown = name or str(getattr(each, "__name__", "") or f"agents[{index}]")
        entry = RegistryEntry(kind="agent", path=shown, name=name or None)
        agent = _as_agent(each, entry)
        if agent is None:
            message = (
                f"`{shown}` is a {type(each).__name__}, and must be a `Subagent`, a LangGraph "
                "graph, or a function that makes one"
            )
            problems.append(entry.problem("not-an-agent", message))
        else:
            found.append((entry, replace(agent, name=name) if name else agent))
    if problems:
        raise PlanError(problems)
    return _by_name(found)


def _by_name(found: Sequence[tuple[RegistryEntry, Subagent]]) -> list[Subagent]:
    """The sub-agents without duplicates, since a path may be named twice."""
    first: dict[str, tuple[RegistryEntry, Subagent]] = {}
    problems: list[Problem] = []
    for entry, agent in found:
        other, _ = first.setdefault(agent.name, (entry, agent))
        if other.path != entry.path:
            message = (
                f"the sub-agents `{entry.path}` and `{other.path}` are both called "
                f"`{agent.name}`; give one of them another `name`"
            )
            problems.append(entry.problem("same-name", message))
    if problems:
        raise PlanError(problems)
    return [agent for _, agent in first.values()]


def load_installed(entry_point: EntryPoint) -> Subagent:
    """The sub-agent of an installed package, under the name of its entry point.

    Raises:
        PlanError: It cannot be imported, or is neither a `Subagent` nor a graph.
    """
    package = entry_point.dist.name if entry_point.dist else "an installed package"
    says = f"the sub-agent `{entry_point.name}` of {package}"
    path = f"{entry_point.module}.{entry_point.attr}".rstrip(".")
    try:
        found: Any = import_entry(RegistryEntry(kind="agent", path=path))
    except PlanError as error:
        problems = [replace(each, message=f"{says}: {each.message}") for each in error.problems]
        raise PlanError(problems) from error
    if agent := _as_agent(found, RegistryEntry(kind="agent", path=path)):
        return replace(agent, name=entry_point.name, path=path)
    message = (
        f"{says}: `{path}` is a {type(found).__name__}, and must be a "
        "`fractale.agents.subagent.Subagent` or a LangGraph graph; a class of the older kind is "
        "named with `-a`"
    )
    raise PlanError([Problem("not-an-agent", message)])
