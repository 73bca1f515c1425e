"""Collects what a run begins with, for `fractale why`: see `fractale.record.conditions`.

Values of variables and of secret inputs are kept as checksums that are keyed by the state
directory; only variables of `SHOWN` have their values, too.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Final, cast

from fractale.agents.catalog import Catalog
from fractale.errors import FractaleError
from fractale.graph.read_files import stamp
from fractale.models import Models
from fractale.plan.forms import part_data
from fractale.plan.model import Plan
from fractale.plan.needs import models_of, named_tools
from fractale.record.snapshot import ToolSnapshot
from fractale.settings import Settings
from fractale.settings.environment import lasting
from fractale.store.cache import CacheStore
from fractale.toolbox import Toolbox, provenance_of

SHOWN: Final = (
    *("PATH", "LOADEDMODULES", "LD_LIBRARY_PATH", "LD_PRELOAD", "PYTHONPATH", "VIRTUAL_ENV"),
    *("CONDA_DEFAULT_ENV", "CONDA_PREFIX", "CUDA_VISIBLE_DEVICES", "LANG", "LC_*", "TZ"),
    *("OMP_*", "GOMP_*", "KMP_*", "MKL_*", "OPENBLAS_*", "NUMEXPR_*", "*_NUM_THREADS"),
)
"""Globs of the variables whose values are kept: they hold no secrets, and often explain much."""

OF_SCREEN: Final = (
    *("COLORTERM", "TERM_*", "TMUX*", "STY", "WINDOWID", "WINDOWPATH", "DBUS_*", "LS_COLORS"),
    *("GPG_*", "VSCODE_*", "SESSION_*", "DESKTOP_*", "XAUTHORITY", "WAYLAND_*", "VTE_*"),
    *("LESS*", "PAGER", "EDITOR", "VISUAL", "HIST*", "PS1", "PROMPT*", "MAIL", "INVOCATION_ID"),
    *("JOURNAL_STREAM", "SYSTEMD_*", "NOTIFY_SOCKET", "MEMORY_PRESSURE_*", "PYTEST_*", "GDM*"),
)
"""Globs of further variables that differ from shell to shell."""

SUBMIT: Final = ("sbatch", "flux", "qsub", "bsub")
"""The programs of schedulers. A scheduler of another version has another one."""


@dataclass(kw_only=True)
class Place:
    """Where runs begin: the outside world that their conditions are read from."""

    settings: Settings
    toolbox: Toolbox
    agents: Catalog
    models: Models
    registries: tuple[str, ...] = ()

    @cached_property
    def store(self) -> CacheStore:
        """Has the key of the checksums."""
        return CacheStore(self.settings.state_dir)

    @cached_property
    def fixed(self) -> dict[str, Any]:
        """The conditions that all runs of one process share: what it has loaded stays as it was.

        Raises:
            StoreError: The key of the checksums cannot be read or made.
        """
        store = self.store
        environment = {n: v for n, v in lasting(self.settings.environment).items() if _says(n)}
        return {
            "key": store.hash_of("key"),
            "python": {"version": platform.python_version(), "program": sys.executable},
            "packages": _packages(),
            "environment": {name: store.hash_of(value) for name, value in environment.items()},
            "shown": {n: v for n, v in environment.items() if _is_any(n, SHOWN)},
            "registries": _registries(self.registries, store),
        }


@lru_cache(maxsize=1024)
def _is_any(name: str, globs: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, glob) for glob in globs)


def _says(name: str) -> bool:
    """Whether a variable says something about what a program computes."""
    return not _is_any(name, OF_SCREEN)


async def conditions_of(
    plan: Plan, place: Place, tools: ToolSnapshot, secrets: Mapping[str, str]
) -> dict[str, Any]:
    """The conditions of a run that begins now, as JSON. What cannot be known is left out.

    Args:
        secrets: The secret inputs.

    Raises:
        StoreError: The key of the checksums cannot be read or made.
    """
    store = place.store
    return {
        **place.fixed,
        "secret_inputs": {name: store.hash_of(value) for name, value in secrets.items()},
        "agents": {each.name: part_data(each) for each in plan.experts},
        "models": _models(plan, place.models),
        "tools": await _tools(plan, place, tools, store),
        "site": _site(plan, place.settings, store),
    }


def _packages() -> dict[str, str]:
    """Package → version of everything that is installed where this Python looks."""
    found: dict[str, str] = {}
    for folder in sys.path:
        try:
            changed = Path(folder or ".").stat().st_mtime_ns
        except OSError:
            continue
        for name, version in _packages_in(os.path.abspath(folder), changed):  # noqa: PTH100 - no link is followed
            found.setdefault(name, version)
    return dict(sorted(found.items()))


@lru_cache(maxsize=64)
def _packages_in(folder: str, changed: int) -> tuple[tuple[str, str], ...]:
    """The packages of a directory, by the names of their directories of metadata.

    Args:
        changed: When the directory was changed, so that a changed one is read again.
    """
    del changed
    found: list[tuple[str, str]] = []
    try:
        names = os.listdir(folder)  # noqa: PTH208 - a path of each of thousands takes longer
    except OSError:
        return ()
    for name in names:
        stem, _, ending = name.rpartition(".")
        if ending in ("dist-info", "egg-info"):
            package, _, rest = stem.partition("-")
            found.append((package.replace("_", "-").lower(), rest.partition("-py")[0]))
    return tuple(found)


def _registries(paths: tuple[str, ...], store: CacheStore) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for path in paths:
        known = stamp(Path(path), store)
        found[path] = known[-1] if known else None
    return found


def _models(plan: Plan, models: Models) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in models_of(plan):
        try:
            found[name or "default"] = models.identity(name)
        except FractaleError:
            continue
    return found


async def _tools(
    plan: Plan, place: Place, offered: ToolSnapshot, store: CacheStore
) -> dict[str, Any]:
    """Tool → what works when it is called, for the tools that the plan names."""
    named = named_tools(plan, place.agents.names())
    found: dict[str, Any] = {}
    for tool in offered.tools:
        if tool.name not in named and tool.qualified_name not in named:
            continue
        known = await provenance_of(place.toolbox, tool.server, tool.own_name)
        parts = dict(known.parts)
        variables = parts.pop("environment", None)
        if isinstance(variables, Mapping):
            parts["environment"] = {
                str(name): store.hash_of(value)
                for name, value in cast("Mapping[str, Any]", variables).items()
                if _says(str(name))
            }
        if known.unknown:
            parts["unknown"] = known.unknown
        found[tool.qualified_name] = parts
    return found


def _site(plan: Plan, settings: Settings, store: CacheStore) -> dict[str, Any]:
    found: dict[str, Any] = {
        "host": platform.node(),
        "system": f"{platform.system()} {platform.release()}",
        "machine": platform.machine(),
    }
    if any(step.job is not None for step in plan.walk()):
        path = settings.environment.get("PATH", os.defpath)
        for program in SUBMIT:
            where = shutil.which(program, path=path)
            if where and (known := stamp(Path(where), store)) is not None:
                found[f"scheduler's `{program}`"] = [where, known[0], known[-1]]
    return found
