"""Queues and nodes of a PBS server, from the output of PBS's programs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, cast

from fractale.schedulers.notation import if_written
from fractale.schedulers.pbs.resources import read_size
from fractale.schedulers.pbs.times import read_time

QUEUES: Final = ("qstat", "-Q", "-f", "-F", "json")
NODES: Final = ("pbsnodes", "-a", "-F", "json")


@dataclass(frozen=True, slots=True, kw_only=True)
class PbsQueue:
    """A queue. PBS does not report which nodes belong to a queue.

    Args:
        up: Whether it accepts jobs and starts them.
        time_limit: In seconds, like `default_time`; None for no limit.
        most_nodes: Per job, like `most_cores`.
    """

    name: str
    up: bool
    time_limit: int | None = None
    default_time: int | None = None
    most_nodes: int | None = None
    most_cores: int | None = None


def read_queues(text: str) -> list[PbsQueue]:
    """The queues in the output of `QUEUES`.

    Raises:
        ValueError: The text has another form.
    """
    return [_queue(name, facts) for name, facts in table_in(text, "Queue").items()]


def read_nodes(text: str) -> list[dict[str, Any]]:
    """The nodes in the output of `NODES`, as ``fractale discover`` shows them.

    Raises:
        ValueError: The text has another form.
    """
    return [_node(name, facts) for name, facts in table_in(text, "nodes").items()]


def table_in(text: str, key: str) -> dict[str, dict[str, Any]]:
    """The objects by name below a key of the JSON that PBS's programs print.

    Raises:
        ValueError: The text is not JSON, or does not contain such objects.
    """
    # PBS does not escape control characters in a job's environment.
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
        time_limit=if_written(read_time, most.get("walltime")),
        default_time=if_written(read_time, default.get("walltime")),
        most_nodes=_count(most.get("nodect")),
        most_cores=_count(most.get("ncpus")),
    )


def _node(name: str, facts: Mapping[str, Any]) -> dict[str, Any]:
    has = _mapping(facts, "resources_available")
    gpus = _count(has.get("ngpus"))
    return {
        "names": name,
        "count": 1,
        "state": str(facts.get("state", "")),
        "cores_per_node": _count(has.get("ncpus")),
        "memory_per_node_mb": _megabytes(has.get("mem")),
        "gpus_per_node": {"gpu": gpus} if gpus else {},
    }


def _megabytes(value: Any) -> int | None:
    size = if_written(read_size, value)
    return None if size is None else size // 2**20


def _count(value: Any) -> int | None:
    text = str(value)
    return int(text) if text.isascii() and text.isdecimal() else None


def _mapping(row: Mapping[str, Any], key: str) -> dict[str, Any]:
    found = row.get(key)
    return cast("dict[str, Any]", found) if isinstance(found, dict) else {}
