"""Which user of this machine is at the other end of a loopback connection, as Linux tells it.

The kernel lists each TCP socket with its owner in ``/proc/net/tcp`` and ``/proc/net/tcp6``. A
client cannot choose what is written there: the row of its socket has the user who opened it.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

TABLES: Final = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
_OVERFLOW: Final = Path("/proc/sys/kernel/overflowuid")
_ESTABLISHED: Final = 1
_LOCAL, _REMOTE, _STATE, _UID, _INODE = 1, 2, 3, 7, 9
"""The columns of a row."""

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def can_tell_users() -> bool:
    """Whether this machine lists the owners of its sockets."""
    return TABLES[0].is_file()


def peer_uid(connection: Any) -> int | None:
    """The user id of the process at the other end of a TCP connection over loopback.

    Args:
        connection: The server's socket of the connection: a `socket.socket`, or what an event loop
            shows of one.

    Returns:
        None if the peer is on another machine, has closed its end, or cannot be told.
    """
    try:
        (here, port), (there, peer_port) = (
            (_address(name[0]), int(name[1]))
            for name in (connection.getsockname(), connection.getpeername())
        )
        if not (here.is_loopback and there.is_loopback):
            return None
        owners = list(_owners((there, peer_port), (here, port)))
        # A port of a connection that ended may be another user's by now. While our end is
        # established, the row can only be that of our own peer: so this is looked at last.
        state = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
    except (OSError, ValueError, LookupError, AttributeError, TypeError):
        return None
    return owners[0] if len(owners) == 1 and state == _ESTABLISHED else None


def _address(text: str) -> Address:
    """An address; an IPv4 address that a socket of IPv6 writes in its own way is an IPv4 one."""
    address = ipaddress.ip_address(text.partition("%")[0])
    return getattr(address, "ipv4_mapped", None) or address


def _owners(local: tuple[Address, int], remote: tuple[Address, int]) -> Iterator[int]:
    """The owners of the sockets between these two ends, without those of no process.

    A socket that its process has closed is listed as root's; it has no inode.
    """
    written = {(a, b) for a, b in zip(_written(*local), _written(*remote), strict=True)}
    unknown = _OVERFLOW.read_text().strip()
    for table in TABLES:
        if not table.is_file():
            continue
        for line in table.read_text(encoding="ascii").splitlines()[1:]:
            row = line.split()
            if (row[_LOCAL], row[_REMOTE]) not in written or int(row[_STATE], 16) != _ESTABLISHED:
                continue
            if row[_INODE] != "0" and row[_UID] != unknown:
                yield int(row[_UID])


def _written(address: Address, port: int) -> list[str]:
    """An end of a connection as the tables have it: words of 32 bits, in the machine's order."""
    forms = [address.packed]
    if address.version == 4:
        forms.append(bytes(10) + b"\xff\xff" + address.packed)
    return [
        "".join(f"{word:08X}" for (word,) in struct.iter_unpack("=I", packed)) + f":{port:04X}"
        for packed in forms
    ]
