"""The data that a run of a `PlanGraph` leaves for the process that continues it, beside its state.

A step that waits or was cut off has no state of its own yet. So its calls, the sources that its
agent has read, the approvals that the user gave for the rest of the run, and its usage so far are
stored as a write of the latest checkpoint, as LangGraph stores the question itself. `fractale.runs`
has files for these.

A process that was killed leaves nothing. An agent that it interrupted may have read anything, and
the calls of the step that it interrupted are made again.
"""

from __future__ import annotations

import json
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
    NULL_TASK_ID,
    OVERWRITE,
    RESUME,
)

from fractale.graph.state import Spent, add_spent
from fractale.plain import to_json
from fractale.policy import Grant, Source
from fractale.store.journal import MemoryJournal
from fractale.store.notes import MemoryNotes

if TYPE_CHECKING:
    from langgraph.checkpoint.base import BaseCheckpointSaver, CheckpointTuple
    from langgraph.types import StateSnapshot

    from fractale.graph.context import RunContext

ENDS: Final = (INTERRUPT, ERROR)
"""The channels in which LangGraph stores why a task did not end."""

CHANNEL: Final = "fractale"
"""The channel of the write. No graph has it, so LangGraph passes over the write."""

OF_THE_TASK: Final = ("approved ", "asked ", "lost ")
"""The first words of notes about the questions of one task of LangGraph."""

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
        calls: The calls of the step that did not end (`fractale.store.journal.MemoryJournal`).
            Empty at an older checkpoint, from which the run is made again.
        answered: Whether the checkpoint has a bare answer of an earlier resume.
    """

    spent: Spent = field(default_factory=Spent)
    notes: Mapping[str, Any] = field(default_factory=dict[str, Any])
    grants: tuple[Grant, ...] = ()
    entered: Mapping[str, str] = field(default_factory=dict[str, str])
    shown: frozenset[str] = frozenset()
    calls: Mapping[str, Any] = field(default_factory=dict[str, Any])
    answered: bool = False


async def read_left(saver: BaseCheckpointSaver[Any], config: RunnableConfig) -> Left:
    """The data that the run left at its latest checkpoint."""
    found = await _latest(saver, config)
    if found is None:
        return Left()
    is_old = CONFIG_KEY_CHECKPOINT_ID in config.get(CONF, {}) and await _is_old(saver, found)
    spent = cast("Spent", found.checkpoint["channel_values"].get("spent") or Spent())
    latest = _left_at(found)
    for _, channel, value in found.pending_writes or ():
        if channel == "spent":  # of a step that ended beside one that did not
            spent = _added(spent, value)
    usage = cast("dict[str, Any]", spent)
    for name, value in latest.get("spent", {}).items():
        usage[name] = max(usage.get(name, 0), value)
    return Left(
        spent=spent,
        notes=latest.get("notes", {}),
        grants=tuple(Grant(**each) for each in latest.get("grants", ())),
        entered=latest.get("entered", {}),
        shown=frozenset(latest.get("shown", ())),
        calls={} if is_old else latest.get("calls", {}),
        answered=any(
            task == NULL_TASK_ID and channel == RESUME and value is not None
            for task, channel, value in found.pending_writes or ()
        ),
    )


async def _is_old(saver: BaseCheckpointSaver[Any], found: CheckpointTuple) -> bool:
    """Whether a thread has a later checkpoint. Then the run is made again from this one."""
    conf = {k: v for k, v in found.config.get(CONF, {}).items() if k != CONFIG_KEY_CHECKPOINT_ID}
    last = await saver.aget_tuple({CONF: conf})
    return last is not None and last.checkpoint["id"] != found.checkpoint["id"]


async def forget_answer(saver: BaseCheckpointSaver[Any], config: RunnableConfig) -> None:
    """Forget a bare answer of an earlier resume.

    LangGraph would give it to the next `interrupt` of Python code that has no answer of its own.
    """
    if (found := await _latest(saver, config)) is not None:
        await saver.aput_writes(found.config, [(RESUME, None)], NULL_TASK_ID)


def _left_at(found: CheckpointTuple) -> dict[str, Any]:
    """The data that was left at a checkpoint: that of the last write."""
    latest, at = cast("Any", {}), ""
    for task, channel, value in found.pending_writes or ():
        if channel == CHANNEL and task > at:
            latest, at = value, task
    # As JSON text, since some savers refuse integers over 64 bits.
    return json.loads(latest) if isinstance(latest, str) else latest


def _added(spent: Spent, written: Any) -> Spent:
    """The usage after a write of it. The write of a first step replaces that of an earlier run."""
    if OVERWRITE in written:
        return cast("Spent", dict(written[OVERWRITE]))
    return add_spent(spent, cast("Spent", written))


async def leave(
    saver: BaseCheckpointSaver[Any],
    config: RunnableConfig,
    run: RunContext,
    notes: MemoryNotes,
    journal: MemoryJournal,
) -> None:
    """Leave the data of a run that is not at its end."""
    found = await _latest(saver, config)
    if found is None:
        return
    writes = found.pending_writes or ()
    waiting = {task for task, channel, _ in writes if channel in ENDS}
    if not waiting and found.checkpoint["channel_values"].get("status"):
        return  # at its end
    # A run that was cancelled has no write that says so.
    if journal.node and not any(task in journal.node for task, _, _ in writes):
        waiting.add(journal.node)
    if waiting:
        entered = {
            path: task
            for path, task in run.meter.entered.items()
            if any(each in task for each in waiting)
        }
        kept = {
            "spent": dict(run.meter.total),
            "notes": notes.values(),
            "grants": [asdict(grant) for grant in run.grants],
            "entered": entered,
            "shown": sorted(run.shown or ()),
            "calls": journal.values(),
        }
        await saver.aput_writes(found.config, *write_of(run.mask(kept)))


def write_of(kept: Mapping[str, Any]) -> tuple[list[tuple[str, Any]], str]:
    """The write of data that is left at a checkpoint, and its task. The last write counts."""
    return [(CHANNEL, to_json(kept))], str(uuid.UUID(int=time.time_ns() << 64))


def kept_at(found: CheckpointTuple | None) -> dict[str, Any]:
    """The data at a checkpoint that also holds for an edited state. Empty: there is none.

    The step that waits is entered anew: it makes its calls again, and asks again.
    """
    left = _left_at(found) if found is not None else {}
    if not left:
        return {}
    notes = {k: v for k, v in left.get("notes", {}).items() if not k.startswith(OF_THE_TASK)}
    return {"spent": left.get("spent", {}), "grants": left.get("grants", ()), "notes": notes}


def checkpoint_of(config: RunnableConfig) -> RunnableConfig:
    """The config of the checkpoint from which a run with this config continues."""
    conf = config.get(CONF, {})
    keys = (CONFIG_KEY_THREAD_ID, CONFIG_KEY_CHECKPOINT_NS, CONFIG_KEY_CHECKPOINT_ID)
    at = {key: conf[key] for key in keys if conf.get(key)}
    namespace = at.get(CONFIG_KEY_CHECKPOINT_NS, "")
    if namespace in (conf.get(CONFIG_KEY_CHECKPOINT_MAP) or {}):
        at[CONFIG_KEY_CHECKPOINT_ID] = conf[CONFIG_KEY_CHECKPOINT_MAP][namespace]
    return {CONF: {**at, CONFIG_KEY_CHECKPOINT_NS: namespace}}


async def _latest(
    saver: BaseCheckpointSaver[Any], config: RunnableConfig
) -> CheckpointTuple | None:
    """The checkpoint from which a run with this config continues."""
    if CONFIG_KEY_THREAD_ID not in config.get(CONF, {}):
        return None
    return await saver.aget_tuple(checkpoint_of(config))


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
