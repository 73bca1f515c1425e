"""Importing the modules that a person names: the one place where their code comes in.

**The threat.** Importing a module runs it, with all rights of the user. Nothing can be checked
beforehand, and nothing confines it: a registry file, an agent's dotted path and a module beside
them are trusted like a shell script that a person starts.

**What is done.** Reading a registry or a plan imports nothing (`files`). Only these name a module:
a registry or server file, ``-a`` with a dotted path, the `agents` that a person gave beside a
plan, the entry points of installed packages, and the table of needs of ``fractale doctor``. A plan
alone imports nothing: of its `agents`, only those that a person gave or installed are imported.

**What is checked.**

- A path consists of identifiers and dots, so it can't name a file or an expression.
- A module beside a registry file is found only if no installed module has its name: its directory
  comes last on ``sys.path``, and so it can't replace a module of Python, of fractale or of a
  package.
- An import that fails, or ends the process by `SystemExit`, becomes a problem with the position of
  the entry, the cause, and what to install.
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import sys
import traceback
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from fractale import shipped
from fractale.errors import PlanError, Problem
from fractale.registry.calls import error_text
from fractale.registry.files import Registry, RegistryEntry, load_registry
from fractale.text import nearest, similar

PACKAGES: Final = {
    "hpc_mcp": "'fractale[hpc]'",
    "flux_mcp": "'fractale[flux]'",
    "flux": "flux-python",
    "mcp_kubernetes_server": "mcp-kubernetes-server",
    "sqlalchemy": "sqlalchemy",
}
"""Module → what is installed for it: fractale's own extras know which versions fit."""

SUCCESSORS: Final = {
    "ResultParserAgent": "result_parse",
    "OptimizeAgent": "optimize",
    "PromptAgent": "ask",
}
"""0.1.0's agents → the built-in sub-agent that does their work now."""
_OLD_HOMES = ("fractale_agents.", "fractale.agents.")
_OWN_TOOLS: Final = "fractale.tools"
_SHOWN = 3


def local_entries(paths: Iterable[str]) -> Registry:
    """Sub-agents that the command line names by dotted path, as a registry.

    Their modules may also be in the working directory.
    """
    entries = [RegistryEntry(kind="agent", path=path, folder=Path.cwd()) for path in paths]
    return Registry(file="agents", entries=tuple(entries))


def import_entry(entry: RegistryEntry) -> Any:
    """Import the function, class or object that an entry names.

    Raises:
        PlanError: One problem: where, why, and which names the module has.
    """
    module_path, _, name = entry.path.rpartition(".")
    if not all(part.isidentifier() for part in entry.path.split(".")) or not module_path:
        message = f"`{entry.path}` must be a dotted path such as `package.module.name`"
        raise PlanError([entry.problem("bad-path", message)])
    module = _import_module(entry, module_path)
    try:
        return getattr(module, name)
    except AttributeError as error:
        raise PlanError([_no_attribute(entry, module, name)]) from error


def import_fault(module: str) -> str:
    """Import a module; why it can't be imported, or nothing.

    Finding a module is not enough: the libraries below it may be missing.
    """
    try:
        importlib.import_module(module)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - any module; reported in words
        return error_text(error)
    return ""


def _import_module(entry: RegistryEntry, path: str) -> ModuleType:
    _look_in(entry.folder, path)
    try:
        return importlib.import_module(path)
    except ModuleNotFoundError as error:
        raise PlanError([_not_found(entry, path, error)]) from error
    except (Exception, SystemExit) as error:
        message = f"importing `{path}` failed: {_cause(error)}"
        if "libflux-core" in str(error):
            message += "; it is a part of Flux itself, which must be installed on this machine"
        raise PlanError([entry.problem("import-failed", message)]) from error


def _look_in(folder: Path | None, path: str) -> None:
    """Make a module beside the registry file importable, unless one of its name is installed."""
    top = path.partition(".")[0]
    if folder is None or top in sys.modules or _is_installed(top):
        return
    if (folder / f"{top}.py").is_file() or (folder / top).is_dir():
        sys.path.append(str(folder))  # at the end, so that it hides nothing
        importlib.invalidate_caches()


def _is_installed(top: str) -> bool:
    try:
        return importlib.util.find_spec(top) is not None
    except (ImportError, ValueError):
        return False


def _not_found(entry: RegistryEntry, path: str, error: ModuleNotFoundError) -> Problem:
    missing = error.name or ""
    if path != missing and not path.startswith(f"{missing}."):
        message = f"importing `{path}` failed: it needs the module `{missing}`"
        return entry.problem("import-failed", f"{message}, which isn't installed{_get(missing)}")
    if instead := successor_of(entry.path):
        return entry.problem("not-installed", _replaced(entry.path, instead))
    parent, _, name = missing.rpartition(".")
    if not parent:
        message = f"`{missing}` isn't installed{_get(missing) or ', or not on PYTHONPATH'}"
        return entry.problem("not-installed", message)
    return _missing(entry, "unknown-module", parent, name, _submodules(parent))


def successor_of(path: str) -> str | None:
    """The built-in sub-agent that does the work of an agent of 0.1.0; None for any other path."""
    return SUCCESSORS.get(path.rpartition(".")[2]) if path.startswith(_OLD_HOMES) else None


def _replaced(path: str, instead: str) -> str:
    return (
        f"`{path}` is an agent of fractale 0.1.0; in a run the built-in sub-agent `{instead}` "
        "takes its place, which can't be served"
    )


def _get(module: str) -> str:
    package = PACKAGES.get(module.partition(".")[0])
    return f": `pip install {package}`" if package else ""


def _submodules(package: str) -> list[str]:
    paths = getattr(sys.modules.get(package), "__path__", [])
    return [module.name for module in pkgutil.iter_modules(paths)]


def _no_attribute(entry: RegistryEntry, module: ModuleType, name: str) -> Problem:
    if instead := successor_of(entry.path):
        return entry.problem("not-installed", _replaced(entry.path, instead))
    if own := own_tool_named(name) if module.__name__ == _OWN_TOOLS else None:
        message = f"`{module.__name__}` is a package, and has no `{name}` itself"
        return entry.problem("unknown-name", message, own)
    there = [key for key, value in vars(module).items() if callable(value) and key[0] != "_"]
    return _missing(entry, "unknown-name", module.__name__, name, there)


def own_tool_named(name: str) -> str | None:
    """The path of fractale's own tool with this name, or of the one with the most similar name."""
    registries = map(load_registry, shipped.files("registry").values())
    paths = [entry.path for registry in registries for entry in registry.entries]
    known = {path.rpartition(".")[2]: path for path in paths if path.startswith(f"{_OWN_TOOLS}.")}
    found = name if name in known else nearest(name, known)
    return known[found] if found else None


def _missing(entry: RegistryEntry, code: str, module: str, name: str, there: list[str]) -> Problem:
    near = similar(name, there, _SHOWN)
    listed = ", ".join(f"`{word}`" for word in near or sorted(there)[:_SHOWN])
    more = f"; {'near it' if near else 'there'}: {listed}" if listed else ""
    message = f"the module `{module}` has no `{name}`{more}"
    return entry.problem(code, message, near[0] if near else None)


def _cause(error: BaseException) -> str:
    """The error in one line, with the line of the file that raised it."""
    frames = traceback.extract_tb(error.__traceback__)
    if isinstance(error, SyntaxError) and error.filename:
        place = f" ({error.filename}:{error.lineno})"
        return f"{type(error).__name__}: {error.msg}{place}"
    own = [frame for frame in frames if "importlib" not in frame.filename][1:]
    place = f" ({own[-1].filename}:{own[-1].lineno})" if own else ""
    first = (str(error).strip() or "no message").splitlines()[0]
    return f"{type(error).__name__}: {first}{place}"
