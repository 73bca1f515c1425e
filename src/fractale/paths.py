"""Which files tools must not touch, which files are in a directory, and which arguments are paths.

There is one list of private places. fractale's own file tools refuse them for every caller, and a
confined program (`fractale.confine`) cannot see them. A path is checked by where it really leads:
links, ``..``, ``/proc/self/root`` and ``/dev/fd`` are resolved first. `open_file` then opens
exactly that place without following links, so a link that is made in between has no effect.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final, Literal, TypeVar

PATHS: Final = "fractale.paths"
"""Annotation of a tool: the names of the arguments that are paths."""

WRITES: Final = "fractale.writes"
"""Annotation of a tool: the path arguments whose files the call changes."""

JOBS: Final = "fractale.jobs"
"""Annotation of a tool that handles batch jobs: `JobPart`."""

NOTES: Final = "fractale_notes"
"""Attribute of a function: annotations that every registry with that function gives to its tool."""

PRIVATE_IN_HOME: Final = (
    # keys
    ".ssh",
    ".gnupg",
    ".password-store",
    ".pki",
    ".local/share/keyrings",
    ".globus",
    # clouds, clusters, registries, forges
    ".aws",
    ".azure",
    ".config/gcloud",
    ".kube",
    ".docker",
    ".config/containers/auth.json",
    ".config/gh",
    ".config/glab-cli",
    ".config/hub",
    ".config/op",
    ".config/rclone",
    ".terraform.d",
    ".vault-token",
    ".s3cfg",
    ".boto",
    ".oci",
    ".netrc",
    "_netrc",
    ".git-credentials",
    ".config/git/credentials",
    ".npmrc",
    ".pypirc",
    ".cargo/credentials",
    ".cargo/credentials.toml",
    ".gem/credentials",
    ".cache/huggingface/token",
    ".huggingface",
    ".config/huggingface",
    ".kaggle",
    # databases
    ".pgpass",
    ".my.cnf",
    ".mylogin.cnf",
    # fractale's own: keys, and what the user trusts
    ".config/fractale",
    # sessions of users
    ".Xauthority",
    ".ICEauthority",
    ".mozilla",
    ".thunderbird",
    ".config/google-chrome",
    ".config/chromium",
    ".config/BraveSoftware",
    ".local/share/jupyter/runtime",
    # histories
    ".bash_history",
    ".zsh_history",
    ".zhistory",
    ".histfile",
    ".sh_history",
    ".ksh_history",
    ".history",
    ".local/share/fish/fish_history",
    ".python_history",
    ".ipython/profile_default/history.sqlite",
    ".psql_history",
    ".mysql_history",
    ".sqlite_history",
    ".rediscli_history",
    ".node_repl_history",
    ".irb_history",
    ".Rhistory",
    ".lesshst",
    ".viminfo",
)
"""Below any user's home directory."""

PRIVATE_ON_MACHINE: Final = (
    "/etc/shadow",
    "/etc/shadow-",
    "/etc/gshadow",
    "/etc/gshadow-",
    "/etc/sudoers",
    "/etc/sudoers.d",
    "/etc/krb5.keytab",
    "/etc/munge",
    "/etc/ssl/private",
    "/etc/pki/tls/private",
    "/etc/kubernetes",
    "/run/secrets",
    "/run/user",
    "/var/lib/sss/secrets",
)

_HOST_KEY: Final = re.compile(r"/etc/ssh/ssh_host_\w+_key")
_TEMPORARY: Final = re.compile(r"(?:krb5cc|ssh-|tmux-|gpg-|dbus-|vscode-|screen|\.X11-unix).*")
"""Names directly in a directory of temporary files: tickets, and the sockets of other sessions."""

TEMPORARY_FOLDERS: Final = ("/tmp", "/var/tmp")  # noqa: S108 - they are kept from, not used

PROTECTED_IN_PROJECT: Final = (".fractale", ".git")
"""Programs and tools must not write these: their contents decide what is run later."""

_OF_RUN: Final = (
    "run.json",
    "events.jsonl",
    "journal.jsonl",
    "checkpoints.sqlite",
    "checkpoints.sqlite-wal",
    "checkpoints.sqlite-shm",
    "checkpoints.sqlite-journal",
    "checkpoints.sqlite.lock",
    "lock",
    "stop",
    "studio-orders.txt",
    "answers",
    "output.txt",
    "written.json",
    "plan.yaml",
    "plan",
    "tools.json",
    "conditions.json",
    "notes.json",
    "bindings.json",
    "entry.json",
    "drafts",
    "outputs",
    "jobs",
    "jobs.jsonl",
)
"""Names that fractale uses in a run's directory (`run.dir` of a plan); tools write others there.

The names of its temporary files begin with a dot.
"""
_OF_PROCESS: Final = ("cgroup", "comm", "limits", "loadavg", "sched", "stat", "statm", "status")
"""The readable files of a process: not its memory, environment, command line or open files."""
_OF_KERNEL: Final = ("kcore", "keys", "key-users", "kallsyms", "kmsg", "kpagecount", "kpageflags")
_ONLY_READ: Final = ("/proc", "/sys", "/dev", "/boot")
_SHARED_MEMORY: Final = "/dev/shm"  # noqa: S108 - it is let through

_Function = TypeVar("_Function", bound=Callable[..., object])


def takes_paths(*reads: str, writes: Iterable[str] = ()) -> Callable[[_Function], _Function]:
    """Mark which arguments of a tool's function are paths.

    Args:
        reads: Arguments whose file or directory the call only reads.
        writes: Arguments whose file or directory the call changes.
    """
    changed = [*writes]

    return _with_notes({PATHS: [*reads, *changed]} | ({WRITES: changed} if changed else {}))


JobPart = Literal["submits", "runs", "looks"]


def about_jobs(part: JobPart) -> Callable[[_Function], _Function]:
    """Mark a tool's function that submits a job, runs one to its end, or reports its state.

    A function that submits or runs a job has the arguments of `fractale.schedulers.job.JobSpec`.
    Its answer has `key`, `seconds`, `nodes` and `over` if they are known, so that a run's budget
    can count the job.
    """
    return _with_notes({JOBS: part})


def _with_notes(notes: Mapping[str, object]) -> Callable[[_Function], _Function]:
    def mark(function: _Function) -> _Function:
        setattr(function, NOTES, {**getattr(function, NOTES, {}), **notes})
        return function

    return mark


def home() -> Path:
    """The user's home directory as the system has it, whatever the variables say."""
    try:
        return Path(pwd.getpwuid(os.getuid()).pw_dir)
    except KeyError:  # a container's user without an entry
        return Path("~").expanduser()


def homes() -> tuple[Path, ...]:
    """The user's home by every name: the system's, that of ``HOME``, and their link targets."""
    found = [home(), Path("~").expanduser()]
    return tuple(dict.fromkeys([*found, *(each.resolve() for each in found)]))


def homes_of_others() -> tuple[Path, ...]:
    """The directories that have the homes of the machine's other users."""
    found = [Path("/home"), *(each.parent for each in homes())]
    return tuple(dict.fromkeys(each for each in found if each != Path("/")))


def private_places() -> Iterator[Path]:
    """The private files and directories of the user and the machine, links resolved."""
    for folder in homes():
        if folder == Path("/"):
            continue
        for name in PRIVATE_IN_HOME:
            place = folder / name
            yield place
            if place.is_symlink():
                yield place.resolve()
    for name in PRIVATE_ON_MACHINE:
        yield Path(name)


def forbidden(path: str | os.PathLike[str], *, writing: bool = False) -> str | None:
    """Why no tool of fractale may touch a path; None if it may.

    Args:
        path: Absolute, or relative to the working directory; ``~`` is the user's home.
        writing: Whether it will be written. Then files that decide what is run later are forbidden,
            too.
    """
    spelt = _spelt(path)
    return _why(spelt, writing=writing) or _why(_real(spelt), writing=writing)


def checked(path: str | os.PathLike[str], *, writing: bool = False) -> Path:
    """The resolved form of a path, if tools may use it.

    Raises:
        PermissionError: It is `forbidden`.
    """
    spelt = _spelt(path)
    real = _real(spelt)  # once: the path that is checked is the path that is returned
    if why := _why(spelt, writing=writing) or _why(real, writing=writing):
        does = "written" if writing else "read"
        raise PermissionError(f"{path} is not {does} by any tool of fractale: {why}")
    return real


def open_file(path: str | os.PathLike[str], *, writing: bool = False) -> int:
    """Open a regular file; one to be written is made if missing, with its parent directories.

    Returns:
        The descriptor. A file to be written still has its content.

    Raises:
        PermissionError: It is `forbidden`.
        ValueError: It is not a regular file.
        OSError: It is missing, cannot be opened, or a link was put in its way after the check.
    """
    real = checked(path, writing=writing)
    folder = _open_folder(real.parent, make=writing)
    try:
        access = os.O_WRONLY | os.O_CREAT if writing else os.O_RDONLY
        flags = access | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        descriptor = os.open(real.name or ".", flags, 0o666, dir_fd=folder)
    finally:
        os.close(folder)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ValueError(f"{path} is not a regular file")
    return descriptor


def _open_folder(real: Path, *, make: bool) -> int:
    """Open a directory, reached from the root without following a link."""
    flags = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open("/", flags)
    for name in real.parts[1:]:
        above = descriptor
        try:
            if make:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(name, dir_fd=above)
            descriptor = os.open(name, flags, dir_fd=above)
        finally:
            os.close(above)
    return descriptor


def holds_private(folder: str | os.PathLike[str]) -> Path | None:
    """An existing private place in a directory or below it; None if there is none."""
    real = _real(_spelt(folder))
    found = (place for place in private_places() if place.is_relative_to(real))
    return next((place for place in found if os.path.lexists(place)), None)


def is_inside(path: str | os.PathLike[str], roots: Iterable[str | os.PathLike[str]]) -> bool:
    """Whether a path really is one of these directories, or below one of them."""
    real = _real(_spelt(path))
    return any(real.is_relative_to(_real(_spelt(root))) for root in roots)


def _spelt(path: str | os.PathLike[str]) -> Path:
    """A path from the root without ``..``; its links stay."""
    return Path(os.path.abspath(Path(path).expanduser()))  # noqa: PTH100 - no link is followed


def _real(path: Path) -> Path:
    try:
        return Path(os.path.realpath(path))
    except OSError:  # a link that cannot be read: nothing behind it can be opened, either
        return path


def _why(path: Path, *, writing: bool) -> str | None:
    why = _of_process(path) or _of_machine(path) or _of_person(path)
    return why or (_if_written(path) if writing else None)


def _of_process(path: Path) -> str | None:
    match path.parts:
        case ("/", "proc", name) if name in _OF_KERNEL:
            return "it is the kernel's memory or keys"
        case ("/", "proc", name, *rest) if name.isdecimal() or name in ("self", "thread-self"):
            if rest[:1] == ["task"]:
                rest = rest[2:]
            if rest and not (len(rest) == 1 and rest[0] in _OF_PROCESS):
                return "it is the inside of a process: its environment, memory or open files"
        case ("/", "dev", name, *_) if name in ("mem", "kmem", "port"):
            return "it is the machine's memory"
        case _:
            pass
    return None


def _of_machine(path: Path) -> str | None:
    if _HOST_KEY.fullmatch(str(path)):
        return "it is a key of this machine"
    if any(path.is_relative_to(place) for place in PRIVATE_ON_MACHINE):
        return "it is where this machine keeps secrets"
    for folder in TEMPORARY_FOLDERS:
        if path.is_relative_to(folder) and path != Path(folder):
            name = path.relative_to(folder).parts[0]
            if _TEMPORARY.fullmatch(name):
                return "it is a ticket or a socket of another session"
    return None


def _of_person(path: Path) -> str | None:
    for place in private_places():
        if path.is_relative_to(place):
            return f"`~/{_name_in_home(place)}` is private: keys, credentials or history"
    # Another user's: fractale may run as a user who can read them.
    for parent in homes_of_others():
        if path.is_relative_to(parent):
            inner = Path(*path.relative_to(parent).parts[1:])
            if any(inner.is_relative_to(name) for name in PRIVATE_IN_HOME):
                return "it is a private place of another person"
    return None


def _name_in_home(place: Path) -> str:
    for folder in homes():
        if place.is_relative_to(folder):
            return str(place.relative_to(folder))
    return place.name


def _if_written(path: Path) -> str | None:
    of_system = any(path.is_relative_to(place) for place in _ONLY_READ)
    if of_system and not path.is_relative_to(_SHARED_MEMORY):
        return "it is the system's"
    parts = path.parts
    if ".git" in parts:
        return "what is in `.git` decides what git runs"
    if ".fractale" in parts and not _is_left_to_tools(path):
        return (
            "`.fractale` has fractale's own records and settings; tools may only write files of "
            "other names into the directory of a run (`run.dir`)"
        )
    return None


def _is_left_to_tools(path: Path) -> bool:
    """Whether a path in a ``.fractale`` is a run's directory, or a file that a tool made in it."""
    match path.parts[path.parts.index(".fractale") + 1 :]:
        case ("runs", _):
            return path.is_dir()
        case ("runs", _, name):
            return name not in _OF_RUN and not name.startswith(".")
        case _:
            return False
