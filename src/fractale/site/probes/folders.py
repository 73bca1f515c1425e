"""Important directories: their paths, their free space, and whether runs are safe there."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from fractale.findings import Finding
from fractale.site.programs import Machine
from fractale.store.filesystem import FileSystem, file_system

SCRATCH = re.compile(r"\w*SCRATCH\w*|\w*WORK(DIR|_DIR)?|PROJ(ECT)?S?(DIR|_DIR)?|TMPDIR|TMP")
"""Names of the variables that sites set to the scratch and work directories."""

SAFE = "safe here"
REFUSED = "refused here: locks do not reach other machines"


async def folders(machine: Machine) -> list[Finding]:
    """Find home, working and state directory, scratch, work, and the temporary directory."""
    found: list[Finding] = []
    for path, roles in _places(machine).items():
        name = ", ".join(roles)
        try:
            found.append(await machine.wait_for(lambda p=path, n=name: look_at(p, n)))
        except TimeoutError:
            why = f"it did not answer within {machine.timeout:g} s"
            found.append(Finding(name=name, state="broken", path=str(path), problem=why))
    return found


def _places(machine: Machine) -> dict[Path, list[str]]:
    """Directory → its roles; a directory with several roles is listed once."""
    env = machine.environment
    named = {
        "working directory": str(machine.folder.absolute()),
        "runs": str(machine.state_dir.absolute()),
        "home": env.get("HOME", ""),
        "temporary": env.get("TMPDIR") or "/tmp",  # noqa: S108 - looked at, not written to
    }
    for variable in sorted(env):
        if SCRATCH.fullmatch(variable) and env[variable].startswith("/"):
            named.setdefault(f"${variable}", env[variable])
    places: dict[Path, list[str]] = {}
    for role, path in named.items():
        if path:
            places.setdefault(Path(path), []).append(role)
    return places


def look_at(path: Path, name: str) -> Finding:
    """Examine one directory; if it does not exist, its nearest existing parent."""
    there = nearest(path)
    place = file_system(there)
    try:
        space = os.statvfs(there)
    except OSError as error:
        return Finding(name=name, state="broken", path=str(path), problem=str(error))
    details: dict[str, Any] = {
        "exists": path.is_dir(),
        "file_system": place.kind,
        "mount": place.mount,
        "network": place.network,
        "total_bytes": space.f_frsize * space.f_blocks,
        "free_bytes": space.f_frsize * space.f_bavail,
        "free_files": space.f_favail if space.f_files else None,
        "writable": os.access(there, os.W_OK | os.X_OK),
        "runs": safety(place),
    }
    return Finding(name=name, path=str(path), details=details)


def size(count: int) -> str:
    """Format bytes for the user: ``12 GB``."""
    amount = float(count)
    for unit in ("bytes", "kB", "MB", "GB", "TB"):
        if amount < 1000 or unit == "TB":
            break
        amount /= 1000
    return f"{amount:.0f} {unit}" if amount >= 10 or unit == "bytes" else f"{amount:.1f} {unit}"


def nearest(path: Path) -> Path:
    """The path itself, or its nearest existing parent directory."""
    place = path.absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    return place


def safety(place: FileSystem) -> str:
    """Whether fractale can keep runs there, by the rules of `fractale.store`."""
    return REFUSED if place.network and not place.locks_everywhere else SAFE
