"""Check the entries of registry and server files: whether they import, and from which package."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fractale.agents.catalog import BUILT_IN
from fractale.errors import PlanError, Problem
from fractale.registry import Registry, RegistryEntry, import_entry
from fractale.registry.calls import in_thread
from fractale.registry.imports import successor_of
from fractale.site.checks.packages import owner_of, owners
from fractale.site.model import Check, Verdict
from fractale.site.needs import NeedsTable
from fractale.site.plan_uses import NamedTargets

SECTION = "tools"
IMPORT_TIMEOUT = 60.0
SHOWN = 6
NEEDS_MODULE = "it needs the module"
"""The start of the message for a module whose own import fails because another is missing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """An entry of a file, with the result of loading it.

    Args:
        file: The file that lists the entry.
        names: The names of its tools, prompts or agents.
        problem: Why the entry could not be loaded.
        instead: The built-in sub-agent that a run uses instead.
    """

    entry: RegistryEntry
    file: str
    names: tuple[str, ...] = ()
    problem: Problem | None = None
    instead: str | None = None

    @property
    def usable(self) -> bool:
        """Whether a run can use the entry."""
        return self.problem is None


async def load_entries(registries: Sequence[Registry], *, served: bool) -> list[Loaded]:
    """Import the entries of files one after the other, each within a minute.

    Args:
        served: The entries are for ``fractale serve``, which never substitutes a sub-agent.
    """
    return [
        await _load(entry, registry.file, served=served)
        for registry in registries
        for entry in registry.entries
    ]


async def _load(entry: RegistryEntry, file: str, *, served: bool) -> Loaded:
    if not served and (instead := successor_of(entry.path)):
        return Loaded(entry=entry, file=file, names=(entry.name or instead,), instead=instead)
    own = entry.name or entry.path.rpartition(".")[2]
    try:
        async with asyncio.timeout(IMPORT_TIMEOUT):
            found = await in_thread(lambda: import_entry(entry))
    except PlanError as error:
        return Loaded(entry=entry, file=file, names=(own,), problem=error.problems[0])
    except TimeoutError:
        why = f"importing `{entry.path}` did not end within {IMPORT_TIMEOUT:g} s"
        problem = entry.problem("import-failed", why)
        return Loaded(entry=entry, file=file, names=(own,), problem=problem)
    return Loaded(entry=entry, file=file, names=_names(entry, found))


def _names(entry: RegistryEntry, found: Any) -> tuple[str, ...]:
    """The names of an object's tools."""
    if entry.kind == "catalog":
        methods: Mapping[str, Any] = vars(found) if inspect.isclass(found) else {}
        return tuple(name for name, each in methods.items() if getattr(each, "is_tool", False))
    own = getattr(found, "name", None)
    own = own if isinstance(own, str) else getattr(found, "__name__", None)
    return (entry.name or own or entry.path.rpartition(".")[2],)


# Entries that imported, and entries that did not


def check_imports(loaded: Sequence[Loaded], needs: NeedsTable) -> list[Check]:
    """Return one line per package whose entries load, and one per cause that blocks others."""
    known: Mapping[str, list[str]] = {}
    if any(each.problem is None for each in loaded):
        known = owners()
    there: dict[str, list[Loaded]] = {}
    lacking: dict[tuple[str, str], list[Loaded]] = {}
    for each in loaded:
        if each.problem is None:
            package = owner_of("fractale" if each.instead else each.entry.path, known)
            name = package or f"{each.entry.path.partition('.')[0]} (a file of yours)"
            there.setdefault(name, []).append(each)
        else:
            lacking.setdefault(_cause(each.problem), []).append(each)
    return [
        *(_there(name, group) for name, group in there.items()),
        *(_lacking(group, needs) for group in lacking.values()),
    ]


def _cause(problem: Problem) -> tuple[str, str]:
    """The missing module that entries share; any other problem counts as a separate cause."""
    message = problem.message
    lacks_module = problem.code == "not-installed" or NEEDS_MODULE in message
    return ("module", _quoted_module(message)) if lacks_module else (problem.code, message)


def _there(package: str, group: Sequence[Loaded]) -> Check:
    names = [name for each in group for name in each.names]
    return Check(section=SECTION, what=package, found=f"has {listed(names)}")


def _lacking(group: Sequence[Loaded], needs: NeedsTable) -> Check:
    first = group[0]
    assert first.problem is not None  # noqa: S101 - the group is of those that have one
    problem = first.problem
    # If all entries are optional, the finding is only a warning.
    verdict: Verdict = "warning" if all(each.entry.optional for each in group) else "missing"
    message, _, _ = problem.message.partition(": `pip install")
    if len(group) > 1 and NEEDS_MODULE in message:
        message = f"they need the module `{_quoted_module(message)}`, which isn't installed"
    return Check(
        section=SECTION,
        what=first.entry.path if len(group) == 1 else _common(group),
        verdict=verdict,
        found=message,
        fix=_fix(first, problem, needs),
        needed_by=tuple(_place(each) for each in group),
    )


def _common(group: Sequence[Loaded]) -> str:
    """The common top of the paths of a group, such as ``flux_mcp``."""
    tops = dict.fromkeys(each.entry.path.partition(".")[0] for each in group)
    return f"{', '.join(tops)} ({len(group)} entries)"


def _place(each: Loaded) -> str:
    place = each.entry.position
    return f"{each.names[0]} ({Path(place.file).name}:{place.line})" if place else each.names[0]


def _fix(each: Loaded, problem: Problem, needs: NeedsTable) -> str:
    if problem.suggestion:
        parent = each.entry.path.rpartition(".")[0]
        if problem.code == "unknown-module":
            return f"name a module that is there, such as `{problem.suggestion}`"
        return f"did you mean `{parent}.{problem.suggestion}`?"
    if problem.code in ("not-installed", "import-failed"):
        missing = _quoted_module(problem.message) or each.entry.path
        if install := needs.install(missing):
            return install
        if problem.code == "not-installed":
            return f"install what has `{missing.partition('.')[0]}`, or put it on PYTHONPATH"
        return "see what its import says with `python -c 'import " + (
            f"{each.entry.path.rpartition('.')[0]}'`"
        )
    return "remove the entry from the file, or correct it"


def _quoted_module(message: str) -> str:
    """The module that a message reports as missing: the last one in quotes."""
    head = message.partition(": `pip install")[0]
    quoted = head.split("`")[1::2]
    return quoted[-1] if quoted else ""


def listed(names: Iterable[str]) -> str:
    """Join names as ``a, b and 7 more``."""
    words = list(dict.fromkeys(names))
    if len(words) <= SHOWN:
        return ", ".join(words)
    return f"{', '.join(words[: SHOWN - 1])} and {len(words) - SHOWN + 1} more"


def files_of(registries: Sequence[Registry]) -> list[Check]:
    """Report file entries that have no effect, and other warnings about files."""
    return [
        Check(
            section=SECTION,
            what=str(problem.position or registry.file),
            verdict="warning",
            found=problem.message,
        )
        for registry in registries
        for problem in registry.warnings
    ]


def own_agents(named: NamedTargets, loaded: Sequence[Loaded]) -> list[Loaded]:
    """The built-in sub-agents that a plan names and no file lists."""
    listed = {name for each in loaded for name in each.names if not each.instead}
    return [
        Loaded(entry=RegistryEntry(kind="agent", path=module), file="", names=(name,))
        for name, (module, _) in BUILT_IN.items()
        if name in named.names and name not in listed
    ]


def unusable(loaded: Sequence[Loaded]) -> Mapping[str, Loaded]:
    """Name that a run cannot use → the entry that should provide it."""
    return {name: each for each in loaded if not each.usable for name in each.names}
