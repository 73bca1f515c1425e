"""By what a log is known again when its figures are others."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Sequence

from fractale.plan.regexes import ends_of

SHAPE_SIZE = 64
"""Kinds of lines that make a shape."""

LONGEST_LOG = 200_000
"""Characters of a log that are looked at."""

LONGEST_LINE = 500

_FIGURE = re.compile(r"[-+]?\d[\d.,:eE+-]*+")
_BLANKS = re.compile(r"\s++")


def shape_of(log: str) -> list[str]:
    """The most frequent kinds of a log's lines, as short hashes in no particular order.

    Two lines are of one kind if they differ in figures and blanks only.
    """
    kinds = Counter(_kind_of(line) for line in ends_of(log, LONGEST_LOG, "\n").splitlines())
    kinds.pop("", None)
    return [
        hashlib.sha256(kind.encode()).hexdigest()[:8] for kind, _ in kinds.most_common(SHAPE_SIZE)
    ]


def _kind_of(line: str) -> str:
    return _BLANKS.sub(" ", _FIGURE.sub("0", line[:LONGEST_LINE])).strip()


def likeness(one: Sequence[str], other: Sequence[str]) -> float:
    """The share of the kinds of lines of two shapes that both have: 0 to 1."""
    together = set(one) | set(other)
    return len(set(one) & set(other)) / len(together) if together else 0.0
