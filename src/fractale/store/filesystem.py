"""Which file system a directory is on, and whether other machines see it, too.

SQLite's write-ahead log needs memory that all its users share, so it is only safe if they are all
on one machine. Home and scratch directories of clusters usually are on network file systems.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

MOUNTINFO = Path("/proc/self/mountinfo")

NETWORK = re.compile(
    "9p|acfs|afp|afs|beegfs|ceph|cifs|coda|cvmfs|daos|dfuse|dvs|fhgfs|gfs|gpfs|glusterfs|ibrix|kafs"
    "|lustre|mfs|moosefs|ncpfs|nfs|ocfs|orangefs|panfs|pvfs|quobyte|smb|sshfs|vboxsf|virtiofs"
    "|vmhgfs|wekafs"
)
"""Prefixes of the types of file system whose files other machines may change."""

LOCAL_FUSE = re.compile(r"fuseblk|fuse\.(fuse-overlayfs|squashfuse|lxcfs|ext2|fuse2fs)")
"""FUSE file systems of this machine alone; any other FUSE file system may be remote."""

LOCAL_LOCKS = {
    "nolock",
    "local_lock=all",
    "local_lock=flock",
    "local_lock=posix",
    "localflock",
    "noflock",
}
"""Mount options that limit locks to this machine, or turn them off."""


@dataclass(frozen=True, slots=True)
class FileSystem:
    """The file system that a directory is on.

    Args:
        kind: Its type as the kernel names it, such as ``ext4``; ``unknown`` if not known.
        mount: Where it is mounted.
        options: How it is mounted.
    """

    kind: str
    mount: str = "/"
    options: frozenset[str] = frozenset()

    @property
    def network(self) -> bool:
        """Whether other machines may use the same files at the same time."""
        if self.kind.startswith("fuse"):
            return not LOCAL_FUSE.match(self.kind)
        return bool(NETWORK.match(self.kind))

    @property
    def locks_everywhere(self) -> bool:
        """Whether other machines see locks, according to the mount's type and options."""
        return not self.options & LOCAL_LOCKS


def file_system(path: Path, mountinfo: str | None = None) -> FileSystem:
    """The file system of a path, which need not exist.

    Args:
        mountinfo: In the form of Linux's ``/proc/self/mountinfo``, which is read if None.
    """
    if mountinfo is None:
        try:
            mountinfo = MOUNTINFO.read_text(encoding="utf-8", errors="surrogateescape")
        except OSError:  # not Linux
            return FileSystem("unknown")
    place = f"{path.resolve()}/"
    found = FileSystem("unknown")
    for mounted in _mounts(mountinfo):
        inside = place.startswith(f"{mounted.mount.rstrip('/')}/")
        # Of two mounts at one place, the later one is visible.
        if inside and len(mounted.mount) >= len(found.mount):
            found = mounted
    return found


@lru_cache(maxsize=2)
def _mounts(mountinfo: str) -> tuple[FileSystem, ...]:
    """The mounts of a ``mountinfo``; every run of a process asks, and they seldom change."""
    return tuple(found for line in mountinfo.splitlines() if (found := _mounted(line)))


def _mounted(line: str) -> FileSystem | None:
    """One line: ``36 35 98:0 /root /mount rw,noatime master:1 - ext4 /dev/root rw,errors=…``."""
    before, dash, after = line.partition(" - ")
    fields, rest = before.split(), after.split()
    if not dash or len(fields) < 6 or not rest:
        return None
    options = frozenset(",".join([fields[5], *rest[2:3]]).split(","))
    return FileSystem(rest[0], _plain(fields[4]), options)


def _plain(field: str) -> str:
    """A path with its blanks, which the kernel writes as octal numbers."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)
