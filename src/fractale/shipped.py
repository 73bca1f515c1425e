"""The plans and registries that come with fractale, and their names: ``fractale:jobs``.

An installation has them beside its code. A clone that is installed as editable has them at its top,
which is their one source. Every command and function that expects the path of a plan or a registry
also expects ``fractale:NAME``, and the value of an input may be ``fractale:data/FILE``.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Literal

from fractale.errors import PlanError, Position, Problem
from fractale.text import nearest

Kind = Literal["plan", "registry"]

SCHEME: Final = "fractale:"
_FOLDERS: Final[Mapping[Kind, str]] = {"plan": "plans", "registry": "registries"}
_DATA: Final = "data"
"""The directories of input files; what is in them is not a plan, whatever its name."""


@functools.cache
def root() -> Path:
    """The directory with ``plans`` and ``registries``: that of the installation, or the clone."""
    here = Path(__file__).resolve().parent
    inside = here / "shipped"
    return inside if inside.is_dir() else here.parents[1]


@functools.cache
def files(kind: Kind) -> Mapping[str, Path]:
    """Name → file, sorted by name. A plan's name is that of its file, whatever its directory."""
    folder = root() / _FOLDERS[kind]
    found = sorted(folder.rglob("*.yaml"), key=lambda path: path.stem)
    return MappingProxyType({path.stem: path for path in found if path.parent.name != _DATA})


def is_named(path: object) -> bool:
    """Whether a path is a name such as ``fractale:jobs``."""
    return str(path).startswith(SCHEME)


def located(path: Path | str, kind: Kind) -> Path:
    """The file of a name such as ``fractale:jobs``; any other path as it is.

    Raises:
        PlanError: fractale has no such file.
    """
    if not is_named(path):
        return Path(path)
    name = str(path).removeprefix(SCHEME)
    known = files(kind)
    if found := known.get(name.removesuffix(".yaml")):
        return found
    near = nearest(name, known)
    message = f"no {kind} of this name comes with fractale; `fractale examples` lists them"
    place = Position(str(path), 1, 1)
    suggestion = f"{SCHEME}{near}" if near else None
    raise PlanError([Problem("unknown-example", message, place, suggestion=suggestion)])


def or_shipped(error: PlanError, path: Path | str, kind: Kind) -> PlanError:
    """The error about a file; if it is missing, it names the file of this name that is shipped."""
    name = Path(path).stem
    if Path(path).exists() or name not in files(kind) or is_named(path):
        return error
    words = f"fractale comes with `{SCHEME}{name}`, which `fractale examples get {name}` copies"
    first, *others = error.problems
    return PlanError([replace(first, message=f"{first.message}; {words}"), *others])


def value(given: Any) -> Any:
    """The value of an input: of ``fractale:data/FILE`` the path of the file, else as it is."""
    if not isinstance(given, str) or not is_named(given):
        return given
    parts = Path(given.removeprefix(SCHEME)).parts
    file = root().joinpath(_FOLDERS["plan"], *parts)
    return str(file) if _DATA in parts and ".." not in parts and file.exists() else given


def recorded(path: Path | str) -> str:
    """A path for a record: absolute, but a name such as ``fractale:jobs`` stays."""
    return str(path) if is_named(path) else str(Path(path).absolute())


def ships(path: Path | str) -> bool:
    """Whether a file is one of fractale's own plans or registries."""
    real = Path(path).resolve()
    return any(real.is_relative_to(root() / folder) for folder in _FOLDERS.values())
