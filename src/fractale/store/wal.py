"""Whether SQLite's write-ahead log is whole, which SQLite itself does not tell.

After a crash SQLite reads the log up to the first frame whose sum does not fit, and takes the
rest for a transaction that was cut. Where that frame was damaged later, the transactions after
it, which had been told to be on the disk, would be gone without a word.
"""

from __future__ import annotations

import struct
import sys
import time
from array import array
from pathlib import Path

from fractale.errors import StoreError

HEADER, FRAME_HEADER = 32, 24
LOOKS = 3
"""Another process may be writing to the log while it is read: what looks damaged is read again."""


def check_wal(database: Path) -> None:
    """Read the log beside a database, if there is one.

    Raises:
        StoreError: Transactions that were complete can no longer be read.
    """
    path = Path(f"{database}-wal")
    for look in range(LOOKS):
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return
        except OSError as error:
            raise StoreError(f"cannot read {path}: {error}") from error
        if not is_damaged(data):
            return
        time.sleep(0.05 * (look + 1))
    raise StoreError(
        f"the log of the latest changes, {path}, is damaged: some of them can't be read",
        hint=f"put {database.parent} back from a copy; or remove {path.name}, and the runs stand "
        "where they stood before those changes",
    )


def is_damaged(data: bytes) -> bool:
    """Whether a whole transaction stands behind a place in the log that does not fit its sum."""
    if len(data) < HEADER + FRAME_HEADER:
        return False
    magic, _, page_size, _, salt1, salt2, sum1, sum2 = struct.unpack_from(">8I", data)
    words = "big" if magic & 1 else "little"
    state = _sum(data[:24], (0, 0), words)
    if magic | 1 != 0x377F0683 or state != (sum1, sum2):
        return True
    broken = False
    for start in range(HEADER, len(data) - FRAME_HEADER - page_size + 1, FRAME_HEADER + page_size):
        _, commit, *salts, sum1, sum2 = struct.unpack_from(">6I", data, start)
        if broken:
            if commit and salts == [salt1, salt2]:
                return True
            continue
        page = start + FRAME_HEADER
        state = _sum(data[start : start + 8], state, words)
        state = _sum(data[page : page + page_size], state, words)
        broken = salts != [salt1, salt2] or state != (sum1, sum2)
    return False


def _sum(data: bytes, state: tuple[int, int], order: str) -> tuple[int, int]:
    numbers = array("I", data)
    if order != sys.byteorder:
        numbers.byteswap()
    first, second = state
    pairs = iter(numbers)
    for even, odd in zip(pairs, pairs, strict=True):
        first = (first + even + second) & 0xFFFFFFFF
        second = (second + odd + first) & 0xFFFFFFFF
    return first, second
