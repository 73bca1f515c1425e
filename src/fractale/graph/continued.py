"""The data that a run of a `PlanGraph` leaves for the process that continues it, beside its state.

A step that waits has no state of its own yet. So the sources that its agent has read, the approvals
that the user gave for the rest of the run, and its usage so far are stored as a write of the
latest checkpoint, as LangGraph stores the question itself. `fractale.runs` has files for these.

A process that was killed leaves nothing. An agent that it interrupted may have read anything.
"""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Final, cast

from langchain_core.runnables import RunnableConfig
from langgraph._internal._constants import (
    CONF,
    CONFIG_KEY_CHECKPOINT_ID,
    CONFIG_KEY_CHECKPOINT_MAP,
    CONFIG_KEY_CHECKPOINT_NS,
    CONFIG_KEY_THREAD_ID,
    ERROR,
    INTERRUPT,
    NS_END,
    NS_SEP,
    OVERWRITE,
)

from fractale.graph.state import Spent, add_spent
from fractale.policy import Grant, Source
from fractale.store.notes import MemoryNotes

if TYPE_CHECKING:
    from langgraph.checkpoint.base import BaseCheckpointSaver, CheckpointTuple
    from langgraph.types import StateSnapshot

    from fractale.graph.context import RunContext

ENDS: Final = (INTERRUPT, ERROR)
"""The channels in which LangGraph stores why a task did not end."""

CHANNEL: Final = "fractale"
"""The channel of the write. No graph has it, so LangGraph passes over the write."""

UNKNOWN: Final = Source(kind="tool", name="calls before a kill", untrusted=True, private=True)
"""The sources of an agent that was interrupted by a kill."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Left:
    """The data that the earlier processes of a run have left.

    Args:
        spent: The usage of the run.
        notes: The notes of its agents, by key.
        grants: The calls that the user allowed for the rest of the run.
        entered: The path of each step that waits → its task.
        shown: The identities of the questions that the run has asked.
    """

    spent: Spent = field(default_factory=Spent)
    notes: Mapping[str, Any] = field(default_factory=dict[str, Any])
    grants: tuple[Grant, ...] = ()
    entered: Mapping[str, str] = field(default_factory=dict[str, str])
    shown: frozenset[str] = frozenset()


async def read_left(saver: BaseCheckpointSaver[Any], config: RunnableConfig) -> Left:
    """The data that the run left at its latest checkpoint."""
    found = await _latest(saver, config)
    if found is None:
        return Left()
    spent = cast("Spent", found.checkpoint["channel_values"].get("spent") or Spent())
    latest, at = cast("dict[str, Any]", {}), ""
    for task, channel, value in found.pending_writes or ():
        if channel == "spent":  # of a step that ended beside one that did not
            spent = _added(spent, value)
        elif channel == CHANNEL and task > at:
            latest, at = cast("dict[str, Any]", value), task
    usage = cast("dict[str, Any]", spent)
    for name, value in latest.get("spent", {}).items():
        usage[name] = max(usage.get(name, 0), value)
    return Left(
        spent=spent,
        notes=latest.get("notes", {}),
        grants=tuple(Grant(**each) for each in latest.get("grants", ())),
        entered=latest.get("entered", {}),
        shown=frozenset(latest.get("shown", ())),
    )


def _added(spent: Spent, written: Any) -> Spent:
    """The usage after a write of it. The write of a first step replaces that of an earlier run."""
    if OVERWRITE in written:
        return cast("Spent", dict(written[OVERWRITE]))
    return add_spent(spent, cast("Spent", written))


async def leave(
    saver: BaseCheckpointSaver[Any], config: RunnableConfig, run: RunContext, notes: MemoryNotes
) -> None:
    """Leave the data of a run that is not at its end."""
    found = await _latest(saver, config)
    waiting = {
        task for task, channel, _ in (found and found.pending_writes) or () if channel in ENDS
    }
    if found is not None and waiting:  # a run at its end has none
        kept = {
            "spent": dict(run.meter.total),
            "notes": notes.values(),
            "grants": [asdict(grant) for grant in run.grants],
            "entered": {
                path: task
                for path, task in run.meter.entered.items()
                if any(each in task for each in waiting)
            },
            "shown": sorted(run.shown or ()),
        }
        # Of several such writes of a checkpoint the last one counts.
        task = str(uuid.UUID(int=time.time_ns() << 64))
        await saver.aput_writes(found.config, [(CHANNEL, run.mask(kept))], task)


async def _latest(
    saver: BaseCheckpointSaver[Any], config: RunnableConfig
) -> CheckpointTuple | None:
    """The checkpoint from which a run with this config continues."""
    conf = config.get(CONF, {})
    keys = (CONFIG_KEY_THREAD_ID, CONFIG_KEY_CHECKPOINT_NS, CONFIG_KEY_CHECKPOINT_ID)
    at = {key: conf[key] for key in keys if conf.get(key)}
    namespace = at.get(CONFIG_KEY_CHECKPOINT_NS, "")
    if namespace in (conf.get(CONFIG_KEY_CHECKPOINT_MAP) or {}):
        at[CONFIG_KEY_CHECKPOINT_ID] = conf[CONFIG_KEY_CHECKPOINT_MAP][namespace]
    if CONFIG_KEY_THREAD_ID not in at:
        return None
    return await saver.aget_tuple({CONF: {**at, CONFIG_KEY_CHECKPOINT_NS: namespace}})


async def cut_off_steps(
    saver: BaseCheckpointSaver[Any], config: RunnableConfig, state: StateSnapshot
) -> frozenset[str]:
    """The nodes that a killed process left in the middle: they have begun, and do not wait.

    Args:
        state: The state from which the run continues.
    """
    conf = config.get(CONF, {})
    outer = str(conf.get(CONFIG_KEY_CHECKPOINT_NS) or "")
    found: set[str] = set()
    for task in state.tasks:
        if task.interrupts or task.error or task.result:
            continue
        inner = f"{task.name}{NS_END}{task.id}"
        namespace = f"{outer}{NS_SEP}{inner}" if outer else inner
        place = {
            CONFIG_KEY_THREAD_ID: conf[CONFIG_KEY_THREAD_ID],
            CONFIG_KEY_CHECKPOINT_NS: namespace,
        }
        if await saver.aget_tuple({CONF: place}) is not None:
            found.add(task.name)
    return frozenset(found)


def is_cut_off(path: str, nodes: frozenset[str]) -> bool:
    """Whether a step is, or is inside, a node that was left in the middle.

    A node of many steps is a segment of a long plan; any of its steps may be the one.
    """
    return re.split(r"[/\[]", path, maxsplit=1)[0] in nodes or any(".." in node for node in nodes)
