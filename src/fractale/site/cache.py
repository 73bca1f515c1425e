"""What was found of a machine, kept in the state folder for a while.

A home is often shared by many machines, and another shell has other modules: what was found is
taken again only on the same machine, in the same surroundings.
"""

from __future__ import annotations

import hashlib
import json
import platform
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from fractale.plain import to_json
from fractale.private import make_folder, write_private
from fractale.site.model import Site
from fractale.site.programs import Machine

MAX_AGE = 3600.0
"""Seconds after which a machine is looked at again."""

SURROUNDINGS = (
    "PATH",
    "HOME",
    "CONTAINER_HOST",
    "DOCKER_HOST",
    "FLUX_URI",
    "KUBECONFIG",
    "LMOD_CMD",
    "LOADEDMODULES",
    "LSB_JOBID",
    "LSF_ENVDIR",
    "MODULEPATH",
    "MODULESHOME",
    "PBS_CONF_FILE",
    "PBS_JOBID",
    "SLURM_CONF",
    "SLURM_JOB_ID",
    "SPACK_ROOT",
    "TMPDIR",
)
"""Variables that change what is found."""


def cache_file(state_dir: Path) -> Path:
    """Where it is kept, for this machine."""
    return state_dir / f"site-{_digest([platform.node()])}.json"


def read_cache(place: Machine, max_age: float = MAX_AGE) -> Site | None:
    """What was found before; None where that is too old, of other surroundings, or unreadable."""
    try:
        data = json.loads(cache_file(place.state_dir).read_text(encoding="utf-8"))
        if data["version"] != 1 or data["surroundings"] != surroundings(place):
            return None
        site = Site.from_dict(data)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return site if 0 <= time.time() - site.looked < max_age else None


def write_cache(place: Machine, site: Site) -> bool:
    """Keep what was found; says whether that could be done, which is no fault if it could not."""
    path = cache_file(place.state_dir)
    data = {**site.as_dict(), "surroundings": surroundings(place)}
    try:
        make_folder(path.parent)
        write_private(path, to_json(data), sync="none")
    except OSError:
        return False
    return True


def surroundings(place: Machine) -> str:
    """A sum of what decides what is found."""
    env: Mapping[str, str] = place.environment
    told = [f"{name}={env.get(name, '')}" for name in SURROUNDINGS]
    return _digest([*told, sys.prefix, str(place.folder.absolute())])


def _digest(words: list[str]) -> str:
    return hashlib.sha256("\0".join(words).encode("utf-8", "surrogateescape")).hexdigest()[:16]
