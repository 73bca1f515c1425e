"""Settings files: where fractale searches for them, and which ones count.

The project's directory is the nearest ``.fractale`` at or above the working directory. The search
ends at the home directory, and at a directory that is not the user's own: on a shared file system,
the directories above may belong to anyone. A ``.fractale``, or a file in it, counts only if this
user or root owns it and no other user may write to it (`fractale.private.fault_of`). Symbolic links
do not count, because a cloned repository may have links to anywhere.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

from fractale.errors import PlanError, SettingsError
from fractale.private import fault_of
from fractale.settings.trust import TrustStore, digest_of

PROJECT_FOLDER: Final = ".fractale"
CONFIG: Final = "config.yaml"
STATE_NAMES: Final = (
    "runs",
    "jobs",
    "local",
    "asked",
    "offered",
    "studio",
    "checkpoints.sqlite",
    "checkpoints.sqlite-wal",
    "checkpoints.sqlite-shm",
    "checkpoints.sqlite-journal",
    "index.sqlite",
    "index.sqlite-wal",
    "index.sqlite-shm",
    "index.sqlite-journal",
)
"""Names of fractale's files and directories in a state directory."""

CONFIG_VARIABLE: Final = "FRACTALE_TRUST_PROJECT"
"""Whether a project's settings are trusted: ``1``, ``0``, or one content's digest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingsFile:
    """A settings file that counts.

    Args:
        digest: SHA-256 of the bytes that `table` was read from.
    """

    path: Path
    table: Mapping[str, Any]
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Project:
    """The project's directory, and the results of the search for it.

    Args:
        directory: The nearest ``.fractale`` that counts, else a new one in the working directory.
        config: Its settings file, if it has one that counts.
        passed_over: Sentences about files that do not count, with the reason.
    """

    directory: Path
    config: SettingsFile | None = None
    passed_over: tuple[str, ...] = ()


def user_folder(environment: Mapping[str, str]) -> Path:
    """The user's own directory of settings: ``~/.config/fractale``, or in XDG_CONFIG_HOME."""
    config = environment.get("XDG_CONFIG_HOME")
    return (Path(config) if config else _home(environment) / ".config") / "fractale"


def trust_store(environment: Mapping[str, str]) -> TrustStore:
    """The store of the user's agreements."""
    return TrustStore(user_folder(environment) / "trust.json")


def find_project(here: Path, environment: Mapping[str, str]) -> Project:
    """Search for the project's directory, and read its settings file.

    Args:
        here: The directory to search from; resolved, since the search goes up from it.

    Raises:
        SettingsError: A file that counts cannot be read, or is not a mapping of settings.
    """
    home = _home(environment).resolve()
    passed: list[str] = []
    searched = list(_searched(here, home))
    for directory in searched:
        place = directory / PROJECT_FOLDER
        try:
            with _opened(place) as descriptor:
                if why := fault_of(os.fstat(descriptor)):
                    passed.append(_passed_over(place, why, f"chmod go-w {place}"))
                    continue
                config, fault = _read_config(place, descriptor)
                return Project(
                    directory=place,
                    config=config,
                    passed_over=(*passed, *([fault] if fault else ())),
                )
        except (FileNotFoundError, NotADirectoryError):
            if place.is_symlink():
                why = "it is a symbolic link"
                target = os.path.realpath(place)
                passed.append(_passed_over(place, why, f"export FRACTALE_STATE_DIR={target}"))
        except OSError as error:
            with contextlib.suppress(OSError):
                if why := fault_of(place.lstat()):  # another user's, and not readable
                    passed.append(_passed_over(place, why, "ask its owner"))
                    continue
            raise SettingsError(f"cannot read {place / CONFIG}: {error.strerror}") from error
    last = searched[-1]
    above = (directory / PROJECT_FOLDER for directory in last.parents)
    if beyond := next((place for place in above if os.path.lexists(place)), None):
        why = "your home directory" if last == home else "where the owner of directories changes"
        passed.append(f"{beyond} is not used: the search for settings ends at {last}, {why}")
    return Project(directory=here / PROJECT_FOLDER, passed_over=tuple(passed))


def _searched(here: Path, home: Path) -> Generator[Path]:
    """The directories to look into, from `here` up."""
    me = os.geteuid()
    directory = here
    while True:
        yield directory
        if directory in (home, directory.parent) or not _is_owned(directory, me):
            return
        if not _is_owned(directory.parent, me):
            return
        directory = directory.parent


def _is_owned(directory: Path, uid: int) -> bool:
    try:
        return directory.stat().st_uid == uid
    except OSError:
        return False


@contextlib.contextmanager
def _opened(directory: Path) -> Generator[int]:
    """A directory's descriptor: its files are then read from the directory that was checked."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _read_config(directory: Path, descriptor: int) -> tuple[SettingsFile | None, str | None]:
    """The settings file in an open directory, or why it does not count."""
    path = directory / CONFIG
    try:
        found = os.stat(CONFIG, dir_fd=descriptor, follow_symlinks=False)
        if stat.S_ISLNK(found.st_mode):
            return None, _passed_over(
                path, "it is a symbolic link", f"replace {path} with a regular file"
            )
        # Without O_NONBLOCK, opening a named pipe would wait for a writer.
        file = os.open(CONFIG, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=descriptor)
    except FileNotFoundError:
        return None, None
    except OSError as error:
        raise SettingsError(f"cannot read {path}: {error.strerror}") from error
    with os.fdopen(file, "rb") as stream:
        if why := fault_of(os.fstat(file)):
            return None, _passed_over(path, why, f"chmod go-w {path}")
        return _settings_file(path, stream), None


def read_user_file(path: Path) -> SettingsFile | None:
    """The user's own settings file; None if there is none. It may be a symbolic link.

    Raises:
        SettingsError: Another user owns it or may write to it, or it cannot be read.
    """
    try:
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise SettingsError(f"cannot read {path}: {error.strerror}") from error
    with os.fdopen(file, "rb") as stream:
        if why := fault_of(os.fstat(file)):
            raise SettingsError(
                f"{path} is not used: {why}",
                hint=f"if its content is yours: chmod go-w {path}",
            )
        return _settings_file(path, stream)


def _settings_file(path: Path, stream: Any) -> SettingsFile:
    if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
        raise SettingsError(f"{path} is not a regular file", hint=f"replace it: rm {path}")
    from fractale.plan.source import MAX_BYTES  # YAML is only imported if there is a file

    try:
        data: bytes = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise SettingsError(f"cannot read {path}: {error.strerror}") from error
    return SettingsFile(path=path, table=read_table(data, str(path)), digest=digest_of(data))


def read_table(data: bytes, file: str) -> dict[str, Any]:
    """YAML text that is a mapping, within the limits of `fractale.plan.source`; {} if empty.

    Args:
        file: How to name it in messages.

    Raises:
        SettingsError: It is not YAML, exceeds a limit, or is not a mapping.
    """
    from fractale.plan.source import read_source

    try:
        node = read_source(data, file)
    except PlanError as error:
        problem = error.problems[0]
        if problem.code == "empty-file":
            return {}
        raise SettingsError(
            f"cannot read {file}: {problem.message}", position=problem.position
        ) from error
    if not isinstance(node.value, dict):
        raise SettingsError(f"{file} must be a mapping of settings", position=node.position)
    return cast("dict[str, Any]", node.plain())


def state_fault(directory: Path, *, links: bool = False) -> str | None:
    """Why a state directory must not be used; None if it may, or if it does not exist yet.

    Args:
        links: Whether the directory itself may be a symbolic link, as one that the user named.
    """
    try:
        found = directory.stat() if links else directory.lstat()
        if stat.S_ISLNK(found.st_mode):
            return f"{directory} is a symbolic link"
        if why := fault_of(found):
            return f"{directory} is not used: {why}"
        if not stat.S_ISDIR(found.st_mode):
            return None  # the function that opens it reports this
        for name in STATE_NAMES:
            place = directory / name
            with contextlib.suppress(FileNotFoundError):
                inside = place.lstat()
                if stat.S_ISLNK(inside.st_mode):
                    return f"{place} is a symbolic link"
                if why := fault_of(inside):
                    return f"{place} is not used: {why}"
    except OSError:
        return None  # missing or out of reach: the function that opens it reports this
    return None


def check_state_folder(directory: Path, *, named: bool) -> None:
    """Check that a state directory is the user's own.

    Args:
        named: Whether the user named it; otherwise it is the project's ``.fractale``.

    Raises:
        SettingsError: It is not.
    """
    if fault := state_fault(directory, links=named):
        raise SettingsError(
            f"the state directory cannot be used: {fault}",
            hint="set FRACTALE_STATE_DIR to a directory of your own, or work in another directory; "
            f"if all files in it are yours: chmod -R go-w {directory}",
        )


def _passed_over(path: Path, why: str, remedy: str) -> str:
    return f"{path} is not used: {why}; to use it: {remedy}"


def _home(environment: Mapping[str, str]) -> Path:
    return Path(environment.get("HOME") or "~").expanduser()
