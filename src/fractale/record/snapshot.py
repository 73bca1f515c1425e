"""A snapshot of what a run depends on: tools, versions and settings, so that it can be replayed.

``tools.json`` in the run's directory has tools, prompts and resources as their servers described
them; runs with the same tools share one file. Versions, hashes and settings are in the run's head.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from fractale.errors import CHECK_SPACE, NotRecorded, StoreError, UsageError
from fractale.graph.bindings import Bindings, Bound, Snapshot, bound_to, waited_for
from fractale.models import Models
from fractale.pins import Described, ToolChange
from fractale.plain import to_json
from fractale.plan.model import NOWHERE, Expression, Plan
from fractale.plan.needs import named_tools, prompts_of, shows_resources, tools_of
from fractale.private import make_folder, write_private
from fractale.settings import PolicySettings, Settings, SourcesSettings, ToolRule
from fractale.settings.rules import POLICY_LISTS, SOURCE_KEYS
from fractale.store.run_record import RunRecord
from fractale.toolbox import PromptInfo, ResourceInfo, Toolbox, ToolInfo

SHARED = "offered"
PACKAGES = ("fractale", "langgraph", "langchain", "langchain-core", "mcp", "fastmcp")


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolSnapshot:
    """The tools, prompts and resources that servers offered to a run."""

    tools: Sequence[ToolInfo] = field(default_factory=list[ToolInfo])
    prompts: Sequence[PromptInfo] = field(default_factory=list[PromptInfo])
    resources: Sequence[ResourceInfo] = field(default_factory=list[ResourceInfo])


async def take_snapshot(toolbox: Toolbox, plan: Plan, agents: Collection[str] = ()) -> ToolSnapshot:
    """The tools, prompts and resources that a toolbox offers to a plan.

    Servers that the plan does not need are not started; resources are listed only if a model may
    see them.

    Args:
        agents: The sub-agents that no server has.
    """
    return ToolSnapshot(
        tools=await toolbox.tools(await names_needed(plan, toolbox, agents)),
        prompts=await toolbox.prompts(prompts_of(plan, agents)),
        resources=await toolbox.resources() if shows_resources(plan, agents) else [],
    )


async def names_needed(
    plan: Plan, toolbox: Toolbox, agents: Collection[str] = ()
) -> list[str] | None:
    """The names of tools to wait for before a plan runs; None: all servers are waited for."""
    names = tools_of(plan, agents)
    return None if names is None else await waited_for(toolbox, names)


def keep_snapshot(record: RunRecord, snapshot: ToolSnapshot, mask: Callable[[Any], Any]) -> None:
    """Write the snapshot into the run's directory.

    Args:
        mask: Removes secrets from a JSON value.

    Raises:
        StoreError: It can't be written.
    """
    keep_shared(record, record.offered, mask(_tables(snapshot)), "the list of tools")


def keep_shared(record: RunRecord, target: Path, value: Any, what: str) -> None:
    """Write a JSON value into the run's directory; runs with the same value share one file.

    Args:
        what: The value, for the message.

    Raises:
        StoreError: It can't be written.
    """
    data = to_json(value, default=dict).encode()
    shared = record.state_dir / SHARED / f"{hashlib.sha256(data).hexdigest()}.json"
    try:
        try:
            os.link(shared, target)
        except FileNotFoundError:
            write_private(target, data, sync="none")
            make_folder(shared.parent)
            _share(target, shared)
        except FileExistsError:
            return
        except OSError:  # a file system without links, or too many of them
            write_private(target, data, sync="none")
    except OSError as error:
        raise StoreError(
            f"{what} cannot be written to {target}: {error}", hint=CHECK_SPACE
        ) from error


def _tables(snapshot: ToolSnapshot) -> dict[str, Any]:
    """A snapshot as JSON. Tools are not copied in depth, of which there may be hundreds."""
    names = [each.name for each in fields(ToolInfo)]
    return {
        "tools": [{name: getattr(tool, name) for name in names} for tool in snapshot.tools],
        "prompts": [asdict(each) for each in snapshot.prompts],
        "resources": [asdict(each) for each in snapshot.resources],
    }


def _share(target: Path, shared: Path) -> None:
    """Let later runs link to a file; if that fails, each run writes its own."""
    try:
        os.link(target, shared)
    except OSError:
        return


def read_snapshot(record: RunRecord) -> ToolSnapshot:
    """Read the tools, prompts and resources that a run was offered.

    Raises:
        NotRecorded: It was not recorded, or is damaged.
    """
    path = record.offered
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        return ToolSnapshot(
            tools=[ToolInfo(**each) for each in data["tools"]],
            prompts=[_prompt(each) for each in data["prompts"]],
            resources=[ResourceInfo(**each) for each in data["resources"]],
        )
    except FileNotFoundError:
        raise NotRecorded(
            "no-tools",
            f"the record of run {record.run_id} does not list the tools that were available",
            hint="an older version of fractale made it; run the plan again",
        ) from None
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise NotRecorded("no-tools", f"{path} cannot be read: {error}") from error


def _prompt(data: dict[str, Any]) -> PromptInfo:
    fields: dict[str, Any] = {**data, "arguments": tuple(data["arguments"])}
    return PromptInfo(**fields)


def snapshot_of(record: RunRecord) -> Snapshot:
    """A lookup of the tools that the run was offered when it began."""

    @cache
    def described() -> dict[Bound, Described]:
        try:
            return {bound_to(tool): tool.described for tool in read_snapshot(record).tools}
        except NotRecorded:
            return {}

    return lambda bound: described().get(bound)


def bindings_of_old(record: RunRecord, plan: Plan, agents: Collection[str]) -> dict[str, Any]:
    """The bindings of names in a run of an older fractale, derived from its tools.

    Args:
        agents: The sub-agents that no server has.
    """
    try:
        tools = read_snapshot(record).tools
    except NotRecorded:
        return {}
    bindings = Bindings()
    for name in named_tools(plan, agents):
        found = [tool for tool in tools if name in (tool.name, tool.qualified_name)]
        if len(found) == 1:
            bindings.bind(name, found[0])
    return bindings.data()


def change_notice(change: ToolChange) -> str:
    """The warning before a run with a tool that changed since it was pinned."""
    name = f"{change.server}.{change.tool}"
    return (
        f"server `{change.server}` changed `{change.tool}` since it was pinned "
        f"({', '.join(change.parts)}); fractale asks you before it is used. To accept the "
        f"change now: fractale list --accept-changes {name}"
    )


# -- versions and hashes --------------------------------------------------------------------------


def versions() -> dict[str, str]:
    """Package → version of what is installed, and Python's own."""
    found = {name: version for name in PACKAGES if (version := _version(name))}
    return {"python": platform.python_version(), **found}


@cache
def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def tool_hashes(tools: Iterable[ToolInfo]) -> dict[str, str]:
    """Tool → a hash of its input and output schemas; the order of keys does not matter."""
    found: dict[str, str] = {}
    for tool in tools:
        schemas = {"input": tool.input_schema, "output": tool.output_schema}
        text = json.dumps(schemas, sort_keys=True, ensure_ascii=False, default=dict)
        found[tool.name] = hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()
    return dict(sorted(found.items()))


# -- settings -------------------------------------------------------------------------------------


def settings_data(settings: Settings, models: Models, policy: PolicySettings) -> dict[str, Any]:
    """The settings that a run depends on, for its head; nothing secret."""
    return {
        "policy": {
            **{name: [_rule_data(r) for r in getattr(policy, name)] for name in POLICY_LISTS},
            "sources": {name: list(getattr(policy.sources, name)) for name in SOURCE_KEYS},
        },
        "fallback_models": list(settings.fallback_models),
        "prices": {spec: asdict(price) for spec, price in settings.prices.items()},
        "models": {"default": _default(models), "one": models.given_for_all, "given": models.given},
    }


def _default(models: Models) -> str | None:
    try:
        return models.spec(None)
    except UsageError:
        return None


def _rule_data(rule: str | ToolRule) -> Any:
    if isinstance(rule, str):
        return rule
    return [rule.tool, dict(rule.arguments), *([rule.when.source] if rule.when else ())]


def policy_of(data: Mapping[str, Any]) -> PolicySettings:
    """The policy of `settings_data`."""
    lists: dict[str, Any] = {
        name: tuple(_rule_of(rule) for rule in data.get(name, ())) for name in POLICY_LISTS
    }
    sources = {name: tuple(globs) for name, globs in data.get("sources", {}).items()}
    return PolicySettings(**lists, sources=SourcesSettings(**sources))


def _rule_of(data: Any) -> str | ToolRule:
    if isinstance(data, str):
        return data
    tool, arguments, *when = data
    return ToolRule(tool, arguments, when=Expression(when[0], NOWHERE) if when else None)
