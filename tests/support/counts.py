"""How many generated examples a test tries: all of them with ``FRACTALE_FULL=1``, else a part."""

from __future__ import annotations

import os

FULL = os.environ.get("FRACTALE_FULL") == "1"
PART, LEAST = 4, 25


def examples(number: int) -> int:
    """`number` of `make test-full`; a quarter of them, but at least 25, in each other run."""
    return number if FULL else min(number, max(number // PART, LEAST))
