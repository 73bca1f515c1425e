"""Whether the user has agreed to a plan, which runs commands as the user.

The user has agreed to a plan in one of four cases:

- Its file, and the plans that it includes, have not changed since the user agreed.
- It is in the directory of a project whose settings the user trusts.
- The user trusts every plan of a directory above it.
- It comes with fractale: it is as much the user's decision as fractale's code.

If another user may write to the plan's file, only the first and the last case count.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from fractale import shipped
from fractale.plan.model import Plan
from fractale.private import fault_of
from fractale.settings import TrustStore
from fractale.settings.trust import digest_of

EVERY_PLAN: Final = "every plan in this directory"
"""The text in place of a digest in the trust store's entry for a directory."""


def plan_digest(plan: Plan) -> str:
    """A hash of the content and the paths of a plan and the plans that it includes."""
    from fractale.plan.dump import dump_plan

    plans = (plan, *_included(plan))
    parts = [f"{os.path.realpath(each.file)}\n{dump_plan(each)}" for each in plans]
    return digest_of("\0".join(parts).encode("utf-8", "backslashreplace"))


def _included(plan: Plan) -> Iterator[Plan]:
    for step in plan.walk():
        if step.plan is not None:
            yield step.plan
            yield from _included(step.plan)


def sweep_digest(file: str, text: str, table: str | None, plan: Plan) -> str:
    """A hash of a sweep file, of its table, and of its plan as `plan_digest` has it.

    Args:
        text: The sweep file as data; comments and layout do not matter.
        table: The path of the table.

    Raises:
        OSError: The table cannot be read.
    """
    parts = [f"{os.path.realpath(file)}\n{text}", plan_digest(plan)]
    if table is not None:
        parts.append(f"{os.path.realpath(table)}\n{digest_of(Path(table).read_bytes())}")
    return digest_of("\0".join(parts).encode("utf-8", "backslashreplace"))


def is_agreed(
    plan: Plan, store: TrustStore, digest: str, *, file: str | None = None, table: str | None = None
) -> bool:
    """Whether the user agreed to the plan's file in its present form, or to its directory.

    Args:
        file: The sweep file that names the plan: `digest` is its `sweep_digest`.
        table: The table of that sweep file.
    """
    if store.holds("plan", file or plan.file, digest):
        return True
    named = [each.file for each in (plan, *_included(plan))]
    named += [each for each in (file, table) if each is not None]
    files = [Path(os.path.realpath(each)) for each in named if not shipped.ships(each)]
    directories = list(_trusted_directories(store))
    return all(is_mine(file) and any(f in file.parents for f in directories) for file in files)


def _trusted_directories(store: TrustStore) -> Iterator[Path]:
    for entry in store.entries():
        path = Path(entry.path)
        if entry.kind == "plan" and entry.digest == EVERY_PLAN:
            yield path
        elif entry.kind == "project" and _has(path, entry.digest):
            yield path.parent.parent  # PROJECT/.fractale/config.yaml


def _has(path: Path, digest: str) -> bool:
    try:
        return digest_of(path.read_bytes()) == digest
    except OSError:
        return False


def is_mine(file: Path) -> bool:
    """Whether only the user may write to a file or directory."""
    try:
        return fault_of(file.stat()) is None
    except OSError:
        return False
