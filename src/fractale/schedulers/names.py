"""Names of jobs and of hosts."""

from __future__ import annotations

import re
from typing import Final

MOST_HOSTS: Final = 100_000


def plain_name(name: str, most: int = 64) -> str:
    """Rewrite a job's name in letters that every scheduler accepts."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", name).strip("-.")[:most] or "job"


def hosts_of(text: str) -> tuple[str, ...]:
    """List the hosts of a host list of Slurm or Flux: ``n[1-3,07-08],m7`` has six."""
    found: list[str] = []
    for part in re.findall(r"(?:[^,\[\]\s]|\[[^\]]*\])+", text):
        found += _spread(part, MOST_HOSTS - len(found))
    return tuple(dict.fromkeys(found))


def _spread(part: str, most: int) -> list[str]:
    before, bracket, rest = part.partition("[")
    if not bracket or most <= 0:
        return [part][:most]
    inside, _, after = rest.partition("]")
    ends = _spread(after, most) if after else [""]
    return [f"{before}{each}{end}" for each in _numbers(inside, most) for end in ends][:most]


def _numbers(text: str, most: int) -> list[str]:
    """Expand ``1-3,07-08``; text that is not a range is kept unchanged."""
    found: list[str] = []
    for each in text.split(","):
        first, dash, last = each.partition("-")
        if dash and first.isdecimal() and last.isdecimal():
            end = min(int(last), int(first) + most)
            found += [str(number).zfill(len(first)) for number in range(int(first), end + 1)]
        else:
            found.append(each)
    return found[:most]
