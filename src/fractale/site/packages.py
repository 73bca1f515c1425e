"""Which Python packages are there, and which of them gives a module."""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from importlib import metadata

from fractale.registry.calls import error_text

NOT_FOR_USE = ("dev",)
"""Extras that are no feature."""

_REQUIREMENT = re.compile(r"^\s*([\w.-]+)")
_EXTRA = re.compile(r"""extra\s*==\s*['"]([\w.-]+)['"]""")


def version_of(package: str) -> str | None:
    """The version of an installed package; None if it is not."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def owners() -> Mapping[str, list[str]]:
    """Top-level module → the packages that give it."""
    try:
        return metadata.packages_distributions()
    except (OSError, ValueError, TypeError):  # a package with damaged records
        return {}


def owner_of(module: str, known: Mapping[str, list[str]]) -> str:
    """``hpc-mcp 0.0.18`` for ``hpc_mcp.git``; nothing for a file of one's own."""
    top = module.partition(".")[0]
    # An editable install, as a developer has it, does not say which modules it gives.
    packages = known.get(top, ["fractale"] if top == "fractale" else [])
    return " and ".join(sorted({f"{name} {version_of(name) or '?'}" for name in packages}))


def requirements() -> tuple[list[str], dict[str, list[str]]]:
    """What fractale itself requires: always, and with each of its extras."""
    always: list[str] = []
    extras: dict[str, list[str]] = {}
    for line in _required():
        name = _REQUIREMENT.match(line)
        extra = _EXTRA.search(line)
        if name is None:
            continue
        if extra is None:
            always.append(name[1])
        elif extra[1] not in NOT_FOR_USE:
            extras.setdefault(extra[1], []).append(name[1])
    return always, extras


def _required() -> list[str]:
    try:
        return list(metadata.requires("fractale") or [])
    except metadata.PackageNotFoundError:  # run from its source, not installed
        return []


def import_fault(module: str) -> str:
    """Why a module can't be imported; nothing if it can.

    Its code runs for it: to find a module does not say that the libraries below it are there.
    """
    try:
        importlib.import_module(module)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a stranger's module; told in words
        return error_text(error)
    return ""
