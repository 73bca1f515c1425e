"""Files and directories that belong to one user: made, written whole, appended to, checked.

Every file that fractale keeps for itself has mode 0600 and every directory 0700, whatever the
umask. A file or directory counts as the user's own if its owner is that user or root, and no other
user may write to it.

A file is replaced completely or not at all (`write_private`). A file of lines only grows, and each
line is appended completely or not at all (`append_line`).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import stat
import threading
from collections.abc import Generator, Iterable, Iterator
from pathlib import Path
from typing import IO, Final, Literal

FILE_MODE: Final = 0o600
FOLDER_MODE: Final = 0o700
NO_LOCKS: Final = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
"""Error numbers of a file system without locks."""
CHUNK: Final = 64 * 1024
"""Bytes that are read at once, from the end of a file."""


def make_folder(folder: Path) -> None:
    """Make a directory with mode 0700, and each missing one above it; one that exists stays.

    Raises:
        OSError: It cannot be made, or something else has that name.
    """
    try:
        new_folder(folder)
    except FileNotFoundError:
        if folder.parent == folder:
            raise
        make_folder(folder.parent)
        make_folder(folder)
    except FileExistsError:
        if not folder.is_dir():
            raise


def new_folder(folder: Path) -> None:
    """Make a directory with mode 0700 in one that exists.

    Raises:
        FileExistsError: Something has that name.
        OSError: It cannot be made.
    """
    folder.mkdir(mode=FOLDER_MODE)
    if stat.S_IMODE(folder.stat().st_mode) & 0o777 != FOLDER_MODE:  # the umask cut the mode
        folder.chmod(FOLDER_MODE)


def open_private(path: Path, flags: int) -> int:
    """Open a file, and make it (0600) if `flags` say so; symbolic links are not followed.

    Returns:
        The descriptor.

    Raises:
        OSError: It cannot be opened; ``ELOOP`` for a symbolic link.
    """
    descriptor = os.open(path, flags | os.O_NOFOLLOW, FILE_MODE)
    if flags & os.O_CREAT:
        try:
            found = os.fstat(descriptor)
            if found.st_uid == os.geteuid() and stat.S_IMODE(found.st_mode) != FILE_MODE:
                os.fchmod(descriptor, FILE_MODE)
        except BaseException:
            os.close(descriptor)
            raise
    return descriptor


def touch_private(path: Path) -> None:
    """Make an empty file with mode 0600; one that exists keeps its content.

    Raises:
        OSError: It cannot be made, or is a symbolic link.
    """
    os.close(open_private(path, os.O_WRONLY | os.O_CREAT))


def write_private(
    path: Path,
    content: str | bytes | Iterable[bytes],
    *,
    sync: Literal["none", "file", "name"] = "file",
    errors: str = "strict",
) -> None:
    """Write a file of mode 0600 whole or not at all; it replaces one of that name.

    Args:
        content: Text is written as UTF-8; pieces one after the other.
        sync: Which parts are on the disk on return: none for certain, the content once the name
            is, or both.
        errors: How to treat characters that UTF-8 lacks, as in `str.encode`.

    Raises:
        OSError: It cannot be written; the old file is unchanged.
        UnicodeEncodeError: UTF-8 lacks a character.
    """
    if isinstance(content, str):
        content = content.encode("utf-8", errors)
    pieces = (content,) if isinstance(content, bytes) else content
    part = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.part")
    try:
        descriptor = open_private(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        with os.fdopen(descriptor, "wb") as file:
            for piece in pieces:
                file.write(piece)
            file.flush()
            if sync != "none":
                os.fsync(file.fileno())
        part.replace(path)
        if sync == "name":
            _sync_folder(path.parent)
    except OSError:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise


def copy_private(source: Path, target: Path) -> None:
    """Copy a file's content into a file of mode 0600.

    Raises:
        OSError: It cannot be read or written.
    """
    descriptor = open_private(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    with source.open("rb") as read, os.fdopen(descriptor, "wb") as written:
        shutil.copyfileobj(read, written)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# Files of lines


def append_line(descriptor: int, line: bytes) -> None:
    """Append a line; if the disk is full, the part that was written is removed again.

    Args:
        descriptor: Of a file that is open for appending, by this process alone.

    Raises:
        OSError: It cannot be written; the file is as it was.
    """
    end = os.fstat(descriptor).st_size
    if os.write(descriptor, line) < len(line):
        os.ftruncate(descriptor, end)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def cut_torn_line(descriptor: int) -> None:
    """Cut off a last line that a crash left without its end: the next would be appended to it."""
    end = os.fstat(descriptor).st_size
    place = end
    while place > 0:
        start = max(0, place - CHUNK)
        newline = os.pread(descriptor, place - start, start).rfind(b"\n")
        if newline >= 0:
            place = start + newline + 1
            break
        place = start
    if place < end:
        os.ftruncate(descriptor, place)


def lines_from_end(path: Path) -> Iterator[bytes]:
    """The lines of a file, the last first; none if the file is missing."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return
    with file:
        place, rest = file.seek(0, os.SEEK_END), b""
        while place > 0:
            size = min(CHUNK, place)
            place -= size
            file.seek(place)
            first, *lines = (file.read(size) + rest).split(b"\n")
            yield from (line for line in reversed(lines) if line)
            rest = first
        if rest:
            yield rest


# Locks and owners


@contextlib.contextmanager
def locked(path: Path) -> Generator[IO[bytes]]:
    """Be the only process in the block; the lock is on a file of that path, and stays there.

    The block runs unlocked on a file system that has no locks.

    Raises:
        OSError: The file cannot be made.
    """
    with os.fdopen(open_private(path, os.O_RDWR | os.O_CREAT), "r+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
        yield file


def fault_of(found: os.stat_result) -> str | None:
    """Why a file or directory does not count as the user's own; None if it does.

    It does if this user or root owns it and no other user may write to it. The group may write to
    it if the group is the user's private one: it has the user's name and no other member. That does
    not apply to root.
    """
    me = os.geteuid()
    if found.st_uid not in (me, 0):
        return f"it belongs to {user_name(found.st_uid)}"
    mode = stat.S_IMODE(found.st_mode)
    if stat.S_ISLNK(found.st_mode):
        return None  # a link has no permissions of its own
    if mode & stat.S_IWOTH:
        return f"every user may write to it (mode {mode:o})"
    if mode & stat.S_IWGRP and not (found.st_uid == me and _is_private_group(found.st_gid)):
        return f"its group may write to it (mode {mode:o})"
    return None


def user_name(uid: int) -> str:
    """The name of a user for messages; the number if it has none."""
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except (KeyError, OSError):
        return f"user {uid}"


def _is_private_group(gid: int) -> bool:
    import grp
    import pwd

    try:
        user, group = pwd.getpwuid(os.geteuid()), grp.getgrgid(gid)
    except (KeyError, OSError):
        return False
    alone = not set(group.gr_mem) - {user.pw_name}
    return user.pw_uid != 0 and group.gr_name == user.pw_name and user.pw_gid == gid and alone
