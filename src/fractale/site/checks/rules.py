"""Check a site's security rules: sockets, polling, arguments, files, the audit log.

The checks read the current state: this user's processes, the state directory, the settings. Tests
with strace and ss cover a whole run.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final

from fractale.audit import FILE
from fractale.masking import Masker
from fractale.settings import STARTED_BY, Settings
from fractale.settings.secrets import shown_arguments
from fractale.site.model import Check

SECTION = "rules"
MOST_FILES: Final = 100_000
SHOWN: Final = 5
_LISTENS: Final = "0A"


@dataclass(frozen=True, slots=True)
class FractaleProcess:
    """A fractale process, or a process that fractale started."""

    pid: int
    words: tuple[str, ...]

    @property
    def serves(self) -> bool:
        """Whether the process accepts connections, as its purpose is.

        These are ``fractale serve``, ``fractale studio``, and a sweep on a cluster with its
        interchange.
        """
        first = set(self.words[:6])
        if {"sweep", "interchange"} & first:
            return True
        return bool({"serve", "studio"} & first) and "--stdio" not in self.words


def check_rules(settings: Settings) -> list[Check]:
    """Return one line per rule of a site, and one per violation."""
    processes = [*fractale_processes()]
    return [
        *_sockets(processes),
        _polling(settings),
        *_arguments(settings, processes),
        *_files(settings),
        *_audit(settings),
    ]


def fractale_processes() -> Iterator[FractaleProcess]:
    """This user's fractale processes, and the processes that they started."""
    me = os.geteuid()
    mark = f"{STARTED_BY}=".encode()
    for entry in os.scandir("/proc") if Path("/proc").is_dir() else ():
        with contextlib.suppress(OSError):
            if not entry.name.isdigit() or entry.stat().st_uid != me:
                continue
            data = Path(entry.path, "cmdline").read_bytes()
            words = tuple(os.fsdecode(each) for each in data.split(b"\0")[:-1])
            names = [Path(word).name for word in words[:2]]
            is_fractale = "fractale" in names or any(w.startswith("fractale.") for w in words[:4])
            if is_fractale or mark in Path(entry.path, "environ").read_bytes():
                yield FractaleProcess(int(entry.name), words)


def _check(what: str, found: str, fix: str = "", *, warns: bool = False) -> Check:
    verdict = "warning" if warns else "missing" if fix else "ok"
    return Check(section=SECTION, what=what, verdict=verdict, found=found, fix=fix)


def _sockets(processes: list[FractaleProcess]) -> Iterator[Check]:
    what = "listening sockets"
    ports = _listening()
    found = [(each, ports[inode]) for each in processes for inode in _inodes(each.pid) & set(ports)]
    for process, port in found:
        where = f"process {process.pid} listens on port {port}"
        if process.serves:
            words = f"{where}: it was started to serve, or for the workers of a sweep"
            yield _check(what, words, "end it if others can use this machine", warns=True)
        else:
            yield _check(what, where, f"see what it is: ps -fp {process.pid}")
    if not found:
        yield _check(what, f"none, of {len(processes)} processes of fractale and its servers")


def _listening() -> dict[str, int]:
    """Inode of each listening socket → its port."""
    ports: dict[str, int] = {}
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            for line in Path("/proc/net", table).read_text(encoding="ascii").splitlines()[1:]:
                parts = line.split()
                if parts[3] == _LISTENS:
                    ports[parts[9]] = int(parts[1].rpartition(":")[2], 16)
    return ports


def _inodes(pid: int) -> set[str]:
    """The inodes of the sockets that a process has open."""
    found: set[str] = set()
    with contextlib.suppress(OSError):
        for entry in Path("/proc", str(pid), "fd").iterdir():
            with contextlib.suppress(OSError):
                target = str(entry.readlink())
                if target.startswith("socket:["):
                    found.add(target[len("socket:[") : -1])
    return found


def _polling(settings: Settings) -> Check:
    what, least = "polling", settings.poll_seconds
    if least:
        return _check(what, f"fractale asks a scheduler about all jobs at most every {least:g} s")
    return _check(
        what,
        "`poll_seconds` is 0: fractale asks a scheduler at each look at a job",
        "leave out `poll_seconds` (60), or set the value that the site asks for",
        warns=True,
    )


def _arguments(settings: Settings, processes: list[FractaleProcess]) -> Iterator[Check]:
    what, clean = "secrets in arguments", True
    mask = Masker(settings.secrets).text
    for process in processes:
        if any(mask(word) != word for word in process.words):
            clean = False
            found = f"process {process.pid} has one: every user can see it in `ps`"
            yield _check(what, found, f"kill {process.pid}, and pass the secret in a variable")
    for name, server in settings.servers.items():
        if tuple(shown_arguments(server.args)) != server.args:
            clean = False
            found = f"server `{name}` gets one in `args`: every user can see it in `ps`"
            yield _check(what, found, "pass it in the server's `env`")
    if clean:
        yield _check(
            what, f"none, of {len(processes)} processes and {len(settings.servers)} servers"
        )


def _files(settings: Settings) -> Iterator[Check]:
    what, folder = "state directory", settings.state_dir
    if not folder.exists():
        yield _check(what, f"{folder} does not exist yet; only you will have access")
        return
    info = folder.stat()
    if info.st_uid != os.geteuid():
        yield _check(what, f"{folder} belongs to uid {info.st_uid}", "set `state_dir` to your own")
    elif info.st_mode & 0o077:
        mode = stat.S_IMODE(info.st_mode)
        found, only_seen = f"{folder} is open to others ({mode:o})", not info.st_mode & 0o022
        yield _check(what, found, f"chmod 700 {folder}", warns=only_seen)
    else:
        yield _check(what, f"only you have access to {folder}, where runs and tools write")
    foreign = [*islice(_foreign(folder), SHOWN)]
    for path, why in foreign:
        yield _check("files", f"{path} {why}", f"see whose it is: ls -ld {path}")
    if not foreign:
        yield _check("files", "all files in the state directory are yours; only you can write them")


def _foreign(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield the files below a directory that another user owns or that others can write."""
    seen = 0
    for root, folders, files in os.walk(folder):
        for name in (*folders, *files):
            seen += 1
            if seen > MOST_FILES:
                return
            with contextlib.suppress(OSError):
                info = Path(root, name).lstat()
                if info.st_uid != os.geteuid():
                    yield str(Path(root, name)), f"belongs to uid {info.st_uid}"
                elif info.st_mode & 0o022 and not stat.S_ISLNK(info.st_mode):
                    yield str(Path(root, name)), "can be written by others"


def _audit(settings: Settings) -> Iterator[Check]:
    what, own = "audit log", settings.state_dir / FILE
    place = own if own.exists() else settings.state_dir
    if place.exists() and not os.access(place, os.W_OK):
        yield _check(what, f"{own} cannot be written: no run can start", f"ls -l {own}")
    else:
        lines = _lines(own)
        yield _check(what, f"{own}, {lines} lines" if lines else f"{own}, from the first run on")
    if settings.audit is None:
        found = "no copy for the administrator: the setting `audit` is not set"
        yield _check(
            "audit copy", found, "set `audit` to a file or directory of the site", warns=True
        )
    elif not os.access(
        settings.audit if settings.audit.exists() else settings.audit.parent, os.W_OK
    ):
        found = f"{settings.audit} cannot be written: no run can start"
        yield _check("audit copy", found, f"ls -ld {settings.audit}")
    else:
        yield _check("audit copy", str(settings.audit))


def _lines(path: Path) -> int:
    try:
        return path.read_bytes().count(b"\n")
    except OSError:
        return 0
