"""Which files a confined program sees: everything that is not private.

Bubblewrap's mounts and Landlock's rules can only add to the visible files, so private places are
left out. A directory that has private entries is *opened*: each other entry is added separately.
Entries created later in an opened directory are not visible, whether private or not.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from fractale.paths import (
    PRIVATE_ON_MACHINE,
    TEMPORARY_FOLDERS,
    homes,
    homes_of_others,
    private_places,
)

ROOT: Final = Path("/")
SEEN_IN_RUN: Final = (
    "/run/systemd/resolve",
    "/run/resolvconf",
    "/run/NetworkManager/resolv.conf",
    "/run/current-system",
    "/run/opengl-driver",
)
"""Visible parts of `/run`: the addresses of name servers, and the programs of NixOS."""


@dataclass(slots=True)
class View:
    """The visible parts of the file system.

    Args:
        opened: Directories that are only partly visible.
        seen: Files and directories below the opened ones that are completely visible.
        links: Symbolic links below the opened directories, with their targets.
    """

    opened: list[Path] = field(default_factory=list[Path])
    seen: list[Path] = field(default_factory=list[Path])
    links: dict[Path, str] = field(default_factory=dict[Path, str])


def emptied_folders() -> list[Path]:
    """Directories for temporary files and sockets; their entries are hidden unless shown."""
    found = [Path(os.path.realpath(name)) for name in (*TEMPORARY_FOLDERS, "/run")]
    return [each for each in dict.fromkeys(found) if each != ROOT and each.is_dir()]


def view(shown: Iterable[Path]) -> View:
    """Compute the visible part of the file system.

    Args:
        shown: Paths that must be visible, wherever they are. Private paths stay hidden.
    """
    private = set(_private())
    found = View()
    for folder in emptied_folders():
        found.opened.append(folder)
    for folder in homes_of_others():
        if folder.is_dir():
            found.opened.append(Path(os.path.realpath(folder)))
    around = {parent for place in private for parent in place.parents if parent != ROOT}
    mine = {Path(os.path.realpath(home)) for home in homes()} - {ROOT}
    for top in sorted({_top(folder, found.opened, mine) for folder in around if folder.is_dir()}):
        if top not in found.opened:
            _open(top, private, around, found)
    found.opened = sorted(set(found.opened))
    for each in (*map(Path, SEEN_IN_RUN), *shown):
        real = Path(os.path.realpath(each))
        if real in found.opened or any(p.is_relative_to(real) for p in (*found.opened, *private)):
            continue  # it is visible as far as possible
        if any(real.is_relative_to(place) for place in private) or not real.exists():
            continue
        if any(real.is_relative_to(folder) for folder in found.opened):
            found.seen.append(real)
    found.seen = list(dict.fromkeys(found.seen))
    return found


def _top(folder: Path, opened: list[Path], mine: set[Path]) -> Path:
    """Where opening starts: this user's home, an opened directory, or an entry of the root."""
    for home in mine:
        if folder.is_relative_to(home):
            return home
    for each in opened:
        if folder.is_relative_to(each):
            return each
    return Path(*folder.parts[:2])


def _open(folder: Path, private: set[Path], around: set[Path], found: View) -> None:
    found.opened.append(folder)
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:
        return
    for entry in entries:
        path = Path(entry.path)
        if path in private or path in found.opened:
            continue
        if entry.is_symlink():
            found.links[path] = os.readlink(path)  # noqa: PTH115 - unchanged, also if relative
        elif path in around and entry.is_dir(follow_symlinks=False):
            _open(path, private, around, found)
        else:
            found.seen.append(path)


def _private() -> Iterable[Path]:
    """The private places, without places of the machine that this user cannot read."""
    of_machine = {Path(name) for name in PRIVATE_ON_MACHINE}
    for place in private_places():
        if place in of_machine and not os.access(place, os.R_OK):
            continue
        yield place
        # The home may be a symbolic link.
        yield Path(os.path.realpath(place.parent)) / place.name
