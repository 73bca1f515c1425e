"""Queues and nodes of a PBS server, as its programs list them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, cast

from fractale.schedulers.pbs.times import read_time

QUEUES: Final = ("qstat", "-Q", "-f", "-F", "json")
NODES: Final = ("pbsnodes", "-a", "-F", "json")
KILOBYTES: Final[Mapping[str, int]] = {"kb": 1, "mb": 2**10, "gb": 2**20, "tb": 2**30}


@dataclass(frozen=True, slots=True, kw_only=True)
class PbsQueue:
    """A queue. PBS does not say which nodes are a queue's.

    Args:
        up: Whether it accepts jobs and starts them.
        time_limit: In seconds, as `default_time`; None where there is none.
        most_nodes: Per job, as `most_cores`.
    """

    name: str
    up: bool
    time_limit: int | None = None
    default_time: int | None = None
    most_nodes: int | None = None
    most_cores: int | None = None


def read_queues(text: str) -> list[PbsQueue]:
    """The queues in what `QUEUES` prints.

    Raises:
        ValueError: The text is not of that form.
    """
    return [_queue(name, facts) for name, facts in table_in(text, "Queue").items()]


def read_nodes(text: str) -> list[dict[str, Any]]:
    """The nodes in what `NODES` prints, as ``fractale discover`` shows them.

    Raises:
        ValueError: The text is not of that form.
    """
    return [_node(name, facts) for name, facts in table_in(text, "nodes").items()]


def table_in(text: str, key: str) -> dict[str, dict[str, Any]]:
    """The objects under a key of the JSON that PBS's programs print, by their names.

    Raises:
        ValueError: The text is not JSON, or has nothing of that kind.
    """
    # PBS writes control characters of a job's environment as they are.
    found: Any = json.loads(text, strict=False)
    table = _mapping(cast("dict[str, Any]", found), key) if isinstance(found, dict) else {}
    if not table:
        raise ValueError(f"it has no `{key}`")
    return {str(name): row for name, row in table.items() if isinstance(row, dict)}


def _queue(name: str, facts: Mapping[str, Any]) -> PbsQueue:
    most, default = _mapping(facts, "resources_max"), _mapping(facts, "resources_default")
    return PbsQueue(
        name=name,
        up=str(facts.get("enabled")) == "True" and str(facts.get("started")) == "True",
        time_limit=seconds(most.get("walltime")),
        default_time=seconds(default.get("walltime")),
        most_nodes=_count(most.get("nodect")),
        most_cores=_count(most.get("ncpus")),
    )


def _node(name: str, facts: Mapping[str, Any]) -> dict[str, Any]:
    has = _mapping(facts, "resources_available")
    memory = re.fullmatch(r"(\d+)([kmgt]b)", str(has.get("mem", "")).lower())
    gpus = _count(has.get("ngpus"))
    return {
        "names": name,
        "count": 1,
        "state": str(facts.get("state", "")),
        "cores_per_node": _count(has.get("ncpus")),
        "memory_per_node_mb": int(memory[1]) * KILOBYTES[memory[2]] // 1024 if memory else None,
        "gpus_per_node": {"gpu": gpus} if gpus else {},
    }


def seconds(value: Any) -> int | None:
    """A walltime in seconds; None where there is none."""
    try:
        return read_time(str(value))
    except ValueError:
        return None


def _count(value: Any) -> int | None:
    text = str(value)
    return int(text) if text.isascii() and text.isdecimal() else None


def _mapping(row: Mapping[str, Any], key: str) -> dict[str, Any]:
    found = row.get(key)
    return cast("dict[str, Any]", found) if isinstance(found, dict) else {}
