"""The lines of a script that a scheduler reads."""

from __future__ import annotations

import re
from collections.abc import Collection

from fractale.errors import JobError


def directives_of(script: str | None, sentinel: str, *, refused: Collection[str] = ()) -> list[str]:
    """The lines that begin with the sentinel, above the script's first command.

    Args:
        sentinel: ``#SBATCH`` and the like.
        refused: Patterns of options that make of one job several, or of several one.

    Raises:
        JobError: One of them is there.
    """
    found: list[str] = []
    for number, line in enumerate((script or "").splitlines(), 1):
        if line.strip() and not line.startswith("#"):
            break
        if re.match(re.escape(sentinel) + r"\b", line):
            for pattern in refused:
                if re.search(pattern, line):
                    raise JobError(
                        f"line {number} of the script, `{line.strip()}`, makes more of it than "
                        "one job",
                        hint="submit one job for each, such as by a step with `foreach`",
                    )
            found.append(line.rstrip())
    return found


def plain_name(name: str, most: int = 64) -> str:
    """A job's name in letters that every scheduler takes."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", name).strip("-.")[:most] or "job"
