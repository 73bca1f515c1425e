"""What a confined program sees of the file system: everything but what is private.

Both ways can only add what is seen (a mount, a rule of Landlock), so what is private is left out:
a folder that has something private in it is *opened*, and what else is in it is added piece by
piece. What appears in an opened folder afterwards is not seen, be it private or not.
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
"""Of `/run`: the addresses of name servers, and the programs of NixOS."""


@dataclass(slots=True)
class View:
    """Which parts of the file system are seen.

    Args:
        opened: Folders that are seen in part only.
        seen: In these, the files and folders that are seen whole.
        links: In these, symbolic links, and what they say.
    """

    opened: list[Path] = field(default_factory=list[Path])
    seen: list[Path] = field(default_factory=list[Path])
    links: dict[Path, str] = field(default_factory=dict[Path, str])


def emptied_folders() -> list[Path]:
    """Folders that hold what others left for the moment: nothing of them is seen unasked."""
    found = [Path(os.path.realpath(name)) for name in (*TEMPORARY_FOLDERS, "/run")]
    return [each for each in dict.fromkeys(found) if each != ROOT and each.is_dir()]


def view(shown: Iterable[Path]) -> View:
    """What is seen.

    Args:
        shown: What must be seen, wherever it is; never something private.
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
            continue  # it is seen, as far as it may be
        if any(real.is_relative_to(place) for place in private) or not real.exists():
            continue
        if any(real.is_relative_to(folder) for folder in found.opened):
            found.seen.append(real)
    found.seen = list(dict.fromkeys(found.seen))
    return found


def _top(folder: Path, opened: list[Path], mine: set[Path]) -> Path:
    """From where a folder is to be opened: a home of mine, else what lies right below the root."""
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
            found.links[path] = os.readlink(path)  # noqa: PTH115 - as it is spelt
        elif path in around and entry.is_dir(follow_symlinks=False):
            _open(path, private, around, found)
        else:
            found.seen.append(path)


def _private() -> Iterable[Path]:
    """The private places; of those of the machine, the ones that only we are kept from."""
    of_machine = {Path(name) for name in PRIVATE_ON_MACHINE}
    for place in private_places():
        if place in of_machine and not os.access(place, os.R_OK):
            continue
        yield place
        # By its name where the home is a link.
        yield Path(os.path.realpath(place.parent)) / place.name
