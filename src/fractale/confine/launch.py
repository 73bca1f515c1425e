"""The launcher that fractale starts instead of a confined program.

It confines itself and becomes the program. It is started as a file and needs only the standard
library and fractale's own files. Its first argument is a JSON object with the settings (see
`fractale.confine`); the program's command follows. The settings name one of three modes:

- ``bwrap``: becomes bubblewrap, which starts this file again inside.
- ``inside``: runs inside bubblewrap, filters system calls, and becomes the program.
- ``landlock``: drops privileges, restricts files, filters system calls, and becomes the program.

Bubblewrap's own process blocks the signals that ask for an end. They reach the program, which is
in the same process group, and bubblewrap exits after the program.
"""

from __future__ import annotations

import ctypes
import glob
import json
import os
import platform
import signal
import stat
import struct
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NoReturn

if __name__ == "__main__":
    sys.path.append(str(Path(__file__).parents[2]))

from fractale.confine.view import View, view
from fractale.paths import PROTECTED_IN_PROJECT

FAILED: Final = 126
"""Exit code if the program was not started."""

ASKING: Final = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGHUP,
    signal.SIGXCPU,
    signal.SIGUSR1,
    signal.SIGUSR2,
)

MOST_DEPTH: Final = 6
MOST_FOLDERS: Final = 2000
NOT_LOOKED_INTO: Final = (".venv", "venv", "node_modules", "__pycache__")
"""Limits of the search for ``.git`` below a project. The program starts after the search."""

DEVICES: Final = ("/dev/nvidia*", "/dev/dri", "/dev/kfd", "/dev/knem", "/dev/xpmem")
NETWORK_DEVICES: Final = ("/dev/infiniband", "/dev/hfi*", "/dev/cxi*")
PLAIN_DEVICES: Final = ("null", "zero", "full", "random", "urandom", "tty", "ptmx", "pts")

_libc: Final = ctypes.CDLL(None, use_errno=True)


class Unable(Exception):
    """The program cannot be confined."""


def main() -> NoReturn:
    """Confine this process and become the program that the arguments name."""
    spec: dict[str, Any] = json.loads(sys.argv[1])
    words = sys.argv[2:]
    try:
        if spec["way"] == "bwrap":
            _become_bubblewrap(spec, words)
        if spec["way"] == "landlock":
            _make_temporary(spec)
            drop_privileges()
            landlock(spec)
        filter_calls(network=spec["network"], local_sockets=spec["way"] == "inside")
        _restore_signals()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ASKING)
        os.execvp(words[0], words)  # noqa: S606 - no shell is wanted
    except (Unable, OSError) as error:
        print(f"fractale: {words[0]}: {error}", file=sys.stderr)  # noqa: T201 - a program
    os._exit(FAILED)


def _restore_signals() -> None:
    """Restore the default action of signals that Python ignores; programs would inherit that."""
    for each in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(each, signal.SIG_DFL)


def _make_temporary(spec: dict[str, Any]) -> None:
    if spec["temporary"]:
        Path(spec["temporary"]).mkdir(mode=0o700, exist_ok=True)
        os.environ["TMPDIR"] = spec["temporary"]


# -- bubblewrap ---------------------------------------------------------------------------------


def _become_bubblewrap(spec: dict[str, Any], words: Sequence[str]) -> NoReturn:
    _make_temporary(spec)
    inner = json.dumps({"way": "inside", "network": spec["network"]})
    inside = [sys.executable, "-IS", __file__, inner, *words]
    arguments = os.memfd_create("fractale-bwrap", 0)
    os.write(arguments, b"".join(os.fsencode(word) + b"\0" for word in _arguments(spec)))
    os.lseek(arguments, 0, os.SEEK_SET)
    os.set_inheritable(arguments, True)
    _restore_signals()
    signal.pthread_sigmask(signal.SIG_BLOCK, ASKING)
    os.execv(spec["bwrap"], [spec["bwrap"], "--args", str(arguments), "--", *inside])  # noqa: S606


def _arguments(spec: dict[str, Any]) -> Iterator[str]:
    """Bubblewrap's options, in the order in which it makes the mounts."""
    here = os.getcwd()  # noqa: PTH109
    shown = _shown(spec)
    seen = view(Path(each) for each in shown)
    yield from ("--unshare-user", "--unshare-pid", "--unshare-ipc")
    if not spec["network"]:
        yield "--unshare-net"
    yield from ("--die-with-parent", "--cap-drop", "ALL")
    yield from ("--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc")
    for device in _devices(spec):
        yield from ("--dev-bind-try", device, device)
    yield from _opened(seen)
    for folder in spec["writable"]:
        yield from ("--bind", folder, folder)
    protected = _outermost([*_protected(spec), *_nested(spec["project"])])
    # A mounted directory cannot be renamed. A mount made later would hide the mounts below it.
    between = {above for path in protected for above in _between(path, spec["writable"])}
    for above in sorted(between, key=lambda path: len(Path(path).parts)):
        yield from ("--bind", above, above)
    for path in protected:
        yield from ("--ro-bind", path, path)
    if spec["temporary"]:  # it may lie in a protected directory
        yield from ("--bind", spec["temporary"], spec["temporary"])
    yield from ("--chdir", here)


def _opened(seen: View) -> Iterator[str]:
    tops = [f for f in seen.opened if not any(f != g and f.is_relative_to(g) for g in seen.opened)]
    for folder in tops:
        yield from ("--tmpfs", str(folder))
    for folder in seen.opened:
        if folder not in tops:
            yield from ("--dir", str(folder))
    for path in seen.seen:
        yield from ("--ro-bind-try", str(path), str(path))
    for path, target in seen.links.items():
        yield from ("--symlink", target, str(path))
    for folder in tops:
        if not str(folder).endswith("tmp"):
            yield from ("--remount-ro", str(folder))


def _shown(spec: dict[str, Any]) -> list[str]:
    here = os.getcwd()  # noqa: PTH109
    return [*spec["shown"], *spec["protected"], *spec["writable"], here]


def _protected(spec: dict[str, Any]) -> list[str]:
    """The protected paths that exist and lie below a writable directory."""
    real = (os.path.realpath(path) for path in spec["protected"] if os.path.exists(path))  # noqa: PTH110
    folders = [*spec["writable"]]
    return [p for p in dict.fromkeys(real) if any(Path(p).is_relative_to(f) for f in folders)]


def _nested(project: str) -> Iterator[str]:
    """Each ``.git`` and ``.fractale`` below the project's directory, within the search limits."""
    level, looked = [project] if project else [], 0
    for _ in range(MOST_DEPTH + 1):
        below: list[str] = []
        for folder in level:
            if looked == MOST_FOLDERS:
                print(  # noqa: T201 - a program
                    f"fractale: {project} has more than {MOST_FOLDERS} directories: a `.git` "
                    "deeper in it may not be protected",
                    file=sys.stderr,
                )
                return
            looked += 1
            for entry in _entries(folder):
                if entry.is_symlink():
                    continue
                if entry.name in PROTECTED_IN_PROJECT:
                    yield entry.path
                elif entry.name not in NOT_LOOKED_INTO and entry.is_dir():
                    below.append(entry.path)
        level = below


def _entries(folder: str) -> list[os.DirEntry[str]]:
    """The entries of a directory, sorted; empty if it cannot be read."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError:
        return []


def _outermost(paths: Sequence[str]) -> list[str]:
    """The paths that do not lie below another of the paths."""
    unlike = list(dict.fromkeys(paths))
    return [p for p in unlike if not any(p != q and Path(p).is_relative_to(q) for q in unlike)]


def _between(path: str, writable: Sequence[str]) -> Iterator[str]:
    """The directories above a path that lie in a writable directory."""
    for above in reversed(Path(path).parents):
        if any(above != Path(f) and above.is_relative_to(f) for f in writable):
            yield str(above)


def _devices(spec: dict[str, Any]) -> list[str]:
    wanted = (*DEVICES, *(NETWORK_DEVICES if spec["network"] else ()))
    return [path for pattern in wanted for path in sorted(glob.glob(pattern))]  # noqa: PTH207


# -- Landlock -----------------------------------------------------------------------------------

LEAST_ABI: Final = 3
"""Older versions of Landlock's interface cannot prevent truncating a file (Linux 6.2)."""

_ABI_DEVICES, _ABI_SCOPES = 5, 6
_READ: Final = 1 << 2 | 1 << 3
_TRUNCATE: Final = 1 << 14
_WRITE_FILE: Final = 1 << 1
_CHANGE: Final = 1 << 4 | 1 << 5 | 1 << 7 | 1 << 8 | 1 << 9 | 1 << 10 | 1 << 12 | 1 << 13
_MAKE_DEVICE: Final = 1 << 6 | 1 << 11
_IOCTL: Final = 1 << 15
_SCOPES: Final = 1 << 0 | 1 << 1
_OF_FILES: Final = _WRITE_FILE | 1 << 2 | _TRUNCATE | _IOCTL
_CREATE, _ADD, _RESTRICT = 444, 445, 446
_PR_SET_NO_NEW_PRIVS, _PR_CAPBSET_DROP, _PR_SET_SECCOMP = 38, 24, 22


def landlock(spec: dict[str, Any]) -> None:
    """Deny reading private files, and writing outside the writable directories.

    Raises:
        Unable: The kernel has no Landlock, or a version that protects too little.
    """
    abi = _libc.syscall(_CREATE, None, ctypes.c_size_t(0), 1)
    if abi < 0:
        raise Unable("the kernel has no Landlock, or it is switched off")
    if abi < LEAST_ABI:
        raise Unable(f"the kernel's Landlock has ABI {abi}; {LEAST_ABI} (Linux 6.2) is needed")
    handled = _READ | _WRITE_FILE | _CHANGE | _MAKE_DEVICE | _TRUNCATE
    handled |= _IOCTL if abi >= _ABI_DEVICES else 0
    attributes = struct.pack("=QQQ", handled, 0, _SCOPES)
    size = 24 if abi >= _ABI_SCOPES else 8
    rules = _libc.syscall(_CREATE, attributes, ctypes.c_size_t(size), 0)
    _check(rules)
    write = (_READ | _WRITE_FILE | _CHANGE | _TRUNCATE | _IOCTL) & handled
    for path in _readable(spec):
        _allow(rules, path, _READ)
    for path in _writable(spec):
        _allow(rules, path, write)
    for name in PLAIN_DEVICES:
        _allow(rules, f"/dev/{name}", (_READ | _WRITE_FILE | _IOCTL) & handled)
    for path in _devices(spec):
        _allow(rules, path, (_READ | _WRITE_FILE | _IOCTL) & handled)
    for descriptor in (1, 2):  # the log, for programs that open /dev/stdout
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            _allow(rules, f"/proc/self/fd/{descriptor}", _WRITE_FILE | _TRUNCATE)
    _check(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    _check(_libc.syscall(_RESTRICT, rules, 0))
    os.close(rules)


def _readable(spec: dict[str, Any]) -> Iterator[str]:
    seen = view(Path(each) for each in _shown(spec))
    yield from map(str, seen.seen)
    yield from _beside("/", [str(each) for each in seen.opened], skip={"/dev"})


def _writable(spec: dict[str, Any]) -> Iterator[str]:
    """The writable directories; a directory with protected entries is replaced by the others."""
    protected = _protected(spec)
    for folder in spec["writable"]:
        inside = [path for path in protected if Path(path).is_relative_to(folder)]
        if not inside:
            yield folder
            continue
        yield from _beside(folder, inside)
        print(  # noqa: T201 - a program
            f"fractale: confined by Landlock: nothing new can be made directly in {folder}, "
            "only in existing directories; bubblewrap would allow it",
            file=sys.stderr,
        )
    if spec["temporary"]:
        yield spec["temporary"]


def _beside(folder: str, left_out: Sequence[str], skip: Iterable[str] = ()) -> Iterator[str]:
    """The entries of a directory; one that contains a left-out path is replaced by its others."""
    for entry in _entries(folder):
        if entry.is_symlink() or entry.path in left_out or entry.path in skip:
            continue
        inner = [path for path in left_out if Path(path).is_relative_to(entry.path)]
        if inner:
            yield from _beside(entry.path, inner)
        else:
            yield entry.path


def _allow(rules: int, path: str, access: int) -> None:
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:  # the path was removed, or its directory cannot be searched
        return
    try:
        if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
            access &= _OF_FILES
        rule = struct.pack("=Qi", access, descriptor)
        _check(_libc.syscall(_ADD, rules, 1, rule, 0))
    finally:
        os.close(descriptor)


def drop_privileges() -> None:
    """Drop root's privileges permanently."""
    if os.getuid() and os.geteuid():
        return
    for capability in range(64):
        if _libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0) != 0:
            break
    header = struct.pack("=Ii", 0x20080522, 0)
    _check(_libc.capset(header, bytes(24)))


# -- system calls -------------------------------------------------------------------------------

_ENOSYS, _EPERM, _EACCES = 38, 1, 13
_FILTERED: Final = 2
_X32: Final = 0x40000000
_INTERNET: Final = (2, 10, 16)
"""AF_INET, AF_INET6, and AF_NETLINK, which programs use to read the machine's addresses."""

_GENERIC: Final = {
    "socket": 198,
    "add_key": 217,
    "request_key": 218,
    "keyctl": 219,
    "io_uring_setup": 425,
}
_MACHINES: Final[dict[str, tuple[int, dict[str, int]]]] = {
    "x86_64": (
        0xC000003E,
        {"socket": 41, "add_key": 248, "request_key": 249, "keyctl": 250, "io_uring_setup": 425},
    ),
    "aarch64": (0xC00000B7, _GENERIC),
    "riscv64": (0xC00000F3, _GENERIC),
    "ppc64le": (
        0xC0000015,
        {
            "socket": 326,
            "socketcall": 102,
            "add_key": 269,
            "request_key": 270,
            "keyctl": 271,
            "io_uring_setup": 425,
        },
    ),
}


def filter_calls(*, network: bool, local_sockets: bool) -> None:
    """Deny sockets, keyrings, io_uring and the system calls of other architectures.

    Args:
        network: Whether the program may open sockets.
        local_sockets: Whether a program with network may also open Unix-domain sockets.

    Raises:
        Unable: The system call numbers of this architecture are unknown.
    """
    machine = platform.machine()
    if machine not in _MACHINES:
        raise Unable(f"nothing is known of the system calls of {machine}")
    architecture, numbers = _MACHINES[machine]
    rules = [_load(4), _unless_equal(architecture, _ENOSYS), _load(0)]
    if machine == "x86_64":
        rules += [_jump(0x35, _X32, 0, 1), _refuse(_ENOSYS)]
    for name, number in numbers.items():
        if name == "socket":
            continue
        refused = _ENOSYS if name == "io_uring_setup" else _EPERM
        rules += [_jump(0x15, number, 0, 1), _refuse(refused)]
    if not network:
        rules += [_jump(0x15, numbers["socket"], 0, 1), _refuse(_EACCES)]
    elif not local_sockets:
        rules += [_jump(0x15, numbers["socket"], 0, len(_INTERNET) + 2), _load(16)]
        rules += [
            _jump(0x15, family, len(_INTERNET) - index, 0) for index, family in enumerate(_INTERNET)
        ]
        rules += [_refuse(_EACCES)]
    rules += [_instruction(0x06, 0x7FFF0000)]
    _check(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    code = ctypes.create_string_buffer(b"".join(rules))
    count = len(code.raw) // 8
    program = struct.pack("@HP", count, ctypes.addressof(code))
    _check(_libc.prctl(_PR_SET_SECCOMP, _FILTERED, program, 0, 0))


def _instruction(code: int, value: int, yes: int = 0, no: int = 0) -> bytes:
    return struct.pack("=HBBI", code, yes, no, value)


def _load(offset: int) -> bytes:
    return _instruction(0x20, offset)


def _jump(code: int, value: int, yes: int, no: int) -> bytes:
    return _instruction(code, value, yes, no)


def _refuse(number: int) -> bytes:
    return _instruction(0x06, 0x00050000 | number)


def _unless_equal(value: int, number: int) -> bytes:
    return _jump(0x15, value, 1, 0) + _refuse(number)


def _check(result: int) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


if __name__ == "__main__":
    main()
