"""Forks: a new run that begins at a step of another run, with the values that the run had there.

A fork does not continue the checkpoints of the run that it comes from. `find_origin` reads the
*values* of one checkpoint: those just before a step was entered (`ForkPoint`). The fork's own
thread starts with these values at the step. So the other run is only read. The plan may have
changed since, as long as it has the step. `take_over` links the outputs that the values refer to
into the fork's own record, so that the fork does not need the other run any more.

If a step is inside another step, LangGraph stores the inner graph under a separate namespace: the
names of the nodes around it, each with its task. The checkpoint of an inner graph names the
checkpoint of each graph around it.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from fractale.errors import InputError, StoreError, UsageError
from fractale.graph.compile import way_to
from fractale.graph.state import ForkPoint, Record
from fractale.jobs.budget import FileLedger, inherited
from fractale.plain import to_json
from fractale.plan.expressions import references
from fractale.plan.flow import Flow
from fractale.plan.model import Plan
from fractale.plan.scope import Placed, texts_of
from fractale.private import copy_private, make_folder, write_private
from fractale.record.history import RecordedAttempt, RunHistory
from fractale.record.plans import plan_hash, plan_of
from fractale.runs.changes import changed_steps, plan_changes
from fractale.runs.result import fork_command
from fractale.store.checkpoints import references_in
from fractale.store.outputs import FileOutputs, OutputStore
from fractale.store.run_record import RunRecord
from fractale.text import count, did_you_mean

if TYPE_CHECKING:
    from langgraph.checkpoint.base import BaseCheckpointSaver, CheckpointTuple

RUN_DRAFT = "run"
"""The node of a planned step that runs its draft."""
DRAFT_PARTS = ("text", "said", "shown", "tries", "rounds", "accepted", "sources")
SENT = "__pregel_tasks"
"""LangGraph's channel for inputs that are sent to nodes without an edge."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ForkChanges:
    """The values that a fork changes.

    Args:
        inputs: Of the plan, values or texts. The other inputs are those of the run that is forked.
        outputs: Step → key → value, instead of the step's output. A dot in a key leads deeper.
        values: Named value → its new value.
    """

    inputs: Mapping[str, Any] = field(default_factory=dict[str, Any])
    outputs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict[str, "Mapping[str, Any]"])
    values: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True, slots=True, kw_only=True)
class ForkOrigin:
    """The place at which a fork leaves the run that it comes from.

    Args:
        path: Of the step.
        number: The number of the step's attempt in that run, from 1, as `fractale show` counts.
        point: The values there.
        at: The time when the run reached the place, in Unix time; None: at its end.
    """

    path: str
    number: int
    point: ForkPoint
    at: float | None = None

    def parent(self, run: str) -> dict[str, Any]:
        """The run that the fork comes from, as the fork's record stores it."""
        return {"run": run, "step": self.path, "attempt": self.number}


@dataclass(frozen=True, slots=True)
class _Graph:
    """One of the nested graphs around a step.

    Args:
        node: Its node that leads to the step.
        step: The step of a plan whose path contains this node.
        attempt: The number of that step's attempt; None: any.
        draft: Whether it is the graph of a planned step, not of a plan.
    """

    node: str
    step: str = ""
    attempt: int | None = None
    draft: bool = False


async def find_origin(saver: BaseCheckpointSaver[Any], history: RunHistory, at: str) -> ForkOrigin:
    """The place where a fork of a run begins.

    Args:
        saver: With the run's checkpoints, which are only read.
        at: The step's name or path, with the attempt's number if it is not the last: ``run#2``.

    Raises:
        UsageError: The run did not reach the step, or not that often. Or a fork cannot begin at it.
        StoreError: The run's plan or its checkpoints are gone.
    """
    path, _, number = at.partition("#")
    attempts = _attempts(history, path)
    if number and not (number.isdecimal() and 0 < int(number) <= len(attempts)):
        times = "not reached" if not attempts else f"attempted {count(len(attempts), 'time')}"
        raise UsageError(
            f"--at {at}: attempt not found in run {history.run}",
            hint=f"`{path}` was {times}; see `fractale show {history.run}`",
        )
    attempt = attempts[int(number or 0) - 1] if attempts else None
    graphs = _graphs(history, attempt, path)
    found = [c async for c in _candidates(saver, history.run, graphs)]
    if not found:
        raise _no_checkpoint(history, path) if attempt else not_reached(history, path)
    # A skipped attempt is not counted: the attempts after it have the same number.
    alike = [v for v in attempts if attempt and _place(v) == _place(attempt)]
    behind = len(alike) - alike.index(attempt) if attempt else 1
    chosen = found[-min(behind, len(found))]
    return ForkOrigin(
        path=attempt.path if attempt else path,
        number=attempt.number if attempt else 1,
        point=_point(graphs, chosen),
        at=attempt.started if attempt else None,
    )


def _place(attempt: RecordedAttempt) -> tuple[Any, ...]:
    around = attempt.parent
    return (attempt.attempt, *((around.path, around.number) if around else ()))


def _attempts(history: RunHistory, path: str) -> list[RecordedAttempt]:
    """The attempts of a step, given by its path or its name.

    Raises:
        UsageError: Several steps have the name, or a fork can't begin at the step.
    """
    attempts = history.of_step(path)
    paths = list(dict.fromkeys(attempt.path for attempt in attempts))
    if any("[" in each for each in paths):
        block = paths[0].partition("[")[0]
        raise UsageError(
            f"`{path}` runs once per item of `{block}`; a fork cannot begin inside an item",
            hint=f"fork the run before all items: --at {block}",
        )
    if len(paths) > 1:
        raise UsageError(
            f"several steps are named `{path}`",
            hint=f"write one of their paths: {', '.join(paths)}",
        )
    for attempt in attempts[:1]:
        _check_parents(attempt)
    return attempts


def _check_parents(attempt: RecordedAttempt) -> None:
    around = attempt.parent
    while around is not None:
        if around.kind == "parallel":
            raise UsageError(
                f"`{attempt.path}` runs in parallel with other steps; a fork cannot begin there",
                hint=f"fork the run before the block: --at {around.path}",
            )
        around = around.parent


def not_reached(history: RunHistory, path: str) -> UsageError:
    """The error if a run did not reach a step."""
    run, parent = history.run, history.head.get("parent")
    plan = plan_of(history.record, history.head)
    if parent and plan and path.partition("/")[0] in {step.name for step in plan.walk()}:
        there = history.record.sibling(parent["run"]).path.is_dir()
        way = fork_command(parent["run"], path)
        gone = f"run {parent['run']} was removed"
        return UsageError(
            f"run {run} was forked from {parent['run']} at `{parent['step']}` and did not reach "
            f"`{path}` itself",
            hint=f"fork the other run: {way}" if there else gone,
        )
    paths = [p for p in history.paths() if "[" not in p]
    reached = f"steps reached: {', '.join(paths[:20])}" if paths else "it did not reach any step"
    return UsageError(
        f"run {run} did not reach step `{path}`",
        hint=did_you_mean(path, paths, otherwise=reached),
    )


def _no_checkpoint(history: RunHistory, path: str) -> StoreError:
    return StoreError(
        f"run {history.run} has no checkpoint from before `{path}`",
        hint="the checkpoints were removed, or are in another store; see `fractale config`",
    )


# -- the graphs around a step -------------------------------------------------------------------


def _graphs(history: RunHistory, attempt: RecordedAttempt | None, path: str) -> list[_Graph]:
    """The graphs around a step, the run's own first."""
    plan = plan_of(history.record, history.head)
    if plan is None:
        raise StoreError(
            f"the plan of run {history.run} has changed or was removed",
            hint="restore the plan, or fork a newer run",
        )
    chain = [attempt] if attempt else []
    while chain and chain[0].parent is not None:
        chain.insert(0, chain[0].parent)
    wanted: list[tuple[str, int | None]] = [(v.name, v.attempt) for v in chain]
    try:
        return list(_along(plan, wanted or [(path, None)]))
    except KeyError:
        raise not_reached(history, path) from None


def _along(plan: Plan | None, wanted: Sequence[tuple[str, int | None]]) -> Iterator[_Graph]:
    """The graphs that lead from a plan to a step inside it. A draft is never a long plan."""
    (name, attempt), *inside = wanted
    for node in way_to(plan, name) if plan else [name]:
        yield _Graph(node, name, attempt)
    if inside:
        below = plan.step(name).inner if plan else None
        if below is None:
            yield _Graph(RUN_DRAFT, draft=True)
        yield from _along(below, inside)


# -- the checkpoints ----------------------------------------------------------------------------


async def _candidates(
    saver: BaseCheckpointSaver[Any], run: str, graphs: Sequence[_Graph]
) -> AsyncIterator[list[dict[str, Any]]]:
    """The values of all graphs, the run's own first, each time the step was about to be entered.

    The oldest come first.
    """
    *around, _ = graphs
    names = [graph.node for graph in around]
    fields = {"thread_id": run} if names else {"thread_id": run, "checkpoint_ns": ""}
    found = [
        checkpoint
        async for checkpoint in saver.alist({"configurable": fields})
        if _names(checkpoint) == names and _about_to_enter(checkpoint, graphs[-1].node)
    ]
    for checkpoint in sorted(found, key=lambda c: str(c.checkpoint["id"])):
        values = [*await _around(saver, run, checkpoint), _values(checkpoint)]
        if _is_attempt(graphs, values):
            yield values


def _names(checkpoint: CheckpointTuple) -> list[str]:
    """The nodes around a checkpoint's graph."""
    space = str(checkpoint.config.get("configurable", {}).get("checkpoint_ns", ""))
    return [part.partition(":")[0] for part in space.split("|")] if space else []


def _about_to_enter(checkpoint: CheckpointTuple, node: str) -> bool:
    """Whether the node runs next: by an edge, by a jump, or because an input was sent to it."""
    channels = checkpoint.checkpoint["channel_values"]
    edge = f"branch:to:{node}"
    jumps = [channel for _, channel, _ in checkpoint.pending_writes or ()]
    sent = [getattr(each, "node", None) for each in channels.get(SENT) or ()]
    return edge in channels or edge in jumps or node in sent


async def _around(
    saver: BaseCheckpointSaver[Any], run: str, checkpoint: CheckpointTuple
) -> list[dict[str, Any]]:
    """The values of the graphs around a checkpoint's graph, when the checkpoint was made."""
    above = cast("Mapping[str, str]", checkpoint.metadata.get("parents") or {})
    found: list[dict[str, Any]] = []
    for space in sorted(above, key=len):
        fields = {"thread_id": run, "checkpoint_ns": space, "checkpoint_id": above[space]}
        outer = await saver.aget_tuple({"configurable": fields})
        found.append(_values(outer) if outer else {})
    return found


def _values(checkpoint: CheckpointTuple) -> dict[str, Any]:
    return dict(checkpoint.checkpoint["channel_values"])


def _is_attempt(graphs: Sequence[_Graph], values: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the values are those before the attempts that the graphs name."""
    if len(graphs) != len(values):
        return False
    return all(
        graph.attempt is None
        or graph.node != graph.step
        or known.get("steps", {}).get(graph.step, {}).get("attempts", 0) + 1 == graph.attempt
        for graph, known in zip(graphs, values, strict=True)
    )


# -- the values -----------------------------------------------------------------------------------


def _point(graphs: Sequence[_Graph], values: Sequence[Mapping[str, Any]]) -> ForkPoint:
    """The point in each of the plans, from the values of their graphs."""
    graph, known = graphs[0], values[0]
    records: dict[str, Record] = dict(known.get("steps", {}))
    named: dict[str, dict[str, Any]] = {
        part: dict(known.get(part) or {}) for part in ("values", "value_sources")
    }
    last, at = known.get("last"), 1
    while graph.node != graph.step:  # a segment has newer values than the graph around it
        graph, known = graphs[at], values[at]
        records |= known.get("steps", {})
        for part, inner in named.items():
            inner |= known.get(part) or {}
        last, at = known.get("last", last), at + 1
    draft: dict[str, Any] | None = None
    if at < len(graphs) and graphs[at].draft:
        draft = {key: values[at][key] for key in DRAFT_PARTS if key in values[at]}
        at += 1
    return ForkPoint(
        step=graph.step,
        attempt=records.get(graph.step, Record()).get("attempts", 0) + 1,
        records={name: _inherited(record) for name, record in records.items()},
        last=last,
        inside=_point(graphs[at:], values[at:]) if at < len(graphs) else None,
        draft=draft,
        **named,
    )


def _inherited(record: Record) -> Record:
    made = record.get("attempts", 0)
    return cast("Record", {**record, "inherited": made}) if made else record


# -- the record of a fork -------------------------------------------------------------------------


def inherited_inputs(history: RunHistory, plan: Plan) -> dict[str, Any]:
    """The inputs of a run that a plan still has, in full. Secret inputs are not stored anywhere."""
    store = FileOutputs(history.record.outputs)
    return {name: store.get(value) for name, value in history.inputs.items() if name in plan.inputs}


def check_point(plan: Plan, point: ForkPoint, path: str = "") -> None:
    """Check that a plan has the steps at which it is to be entered.

    Raises:
        UsageError: The plan has no such step, or the step's inside differs.
    """
    step = next((step for step in plan.steps if step.name == point.step), None)
    if step is None:
        names = [step.name for step in plan.steps]
        still = "fork the run at a step that the plan still has"
        raise UsageError(
            f"the plan {plan.file} no longer has step `{path}{point.step}`",
            hint=did_you_mean(point.step, names, otherwise=still),
        )
    if point.inside is None:
        return
    if point.draft is None and step.inner is not None:
        check_point(step.inner, point.inside, f"{path}{point.step}/")
    elif point.draft is None or step.kind != "plan" or step.plan is not None:
        raise UsageError(
            f"the step `{path}{point.step}` of {plan.file} now runs another kind of plan",
            hint=f"fork the run before this step: --at {path}{point.step}",
        )


NEEDED = re.compile(rb'"\$ref": "sha256:([0-9a-f]{64})"')
"""A reference to an output, as it is in the state of a fork."""


def take_over(
    history: RunHistory, child: RunRecord, point: ForkPoint, at: float | None = None
) -> None:
    """Give a fork the outputs of its state, the drafts of the steps before, and their jobs' cost.

    Args:
        history: Of the run that is forked. Its files are only read.
        at: When that run reached the place where the fork begins, in Unix time; None: at its end.

    Raises:
        StoreError: An output is gone, or can't be linked or copied.
    """
    data = json.dumps(point.as_dict()).encode()
    _link_outputs(history.record, child, data)
    if line := inherited(FileLedger(history.record.job_ledger), at):
        FileLedger(child.job_ledger).add(line)
    for path, text in history.record.read_drafts().items():
        if path.partition("/")[0].partition("[")[0] in {*point.records, point.step}:
            child.keep_draft(path, text)
    for path, text in _drafts_of(point):
        child.keep_draft(path, text)


def _drafts_of(point: ForkPoint, prefix: str = "") -> Iterator[tuple[str, str]]:
    path = f"{prefix}{point.step}"
    if point.draft:
        yield path, str(point.draft.get("text", ""))
    if point.inside:
        yield from _drafts_of(point.inside, f"{path}/")


def _link_outputs(parent: RunRecord, child: RunRecord, data: bytes) -> None:
    """Link every output that some data refers to, and the outputs that these refer to in turn."""
    theirs, ours = FileOutputs(parent.outputs), FileOutputs(child.outputs)
    wanted, known = references_in([data]), set[str]()
    needed = {digest.decode() for digest in NEEDED.findall(data)}
    while wanted:
        digest = wanted.pop()
        known.add(digest)
        value, text = theirs.paths(digest)
        source = text if text.exists() else value
        if digest not in needed and not source.exists():
            continue  # it only looks like a reference, such as the checksum of a container
        try:
            _link(source, ours.paths(digest)[source is text])
            if source is value:
                wanted |= references_in([source.read_bytes()]) - known
        except OSError as error:
            raise StoreError(
                f"an output of run {parent.run_id} cannot be linked or copied: {error}",
                hint="check free space and permissions, or fork the run at an earlier step",
            ) from error


def _link(source: Path, target: Path) -> None:
    """Link one file into a second directory. It never changes, so it need not be copied."""
    make_folder(target.parent)
    try:
        os.link(source, target)
    except FileExistsError:
        return
    except FileNotFoundError:
        raise
    except OSError:  # a file system without links, or with too many of them
        copy_private(source, target)


def with_outputs(
    point: ForkPoint, store: OutputStore, outputs: Mapping[str, Mapping[str, Any]]
) -> ForkPoint:
    """The same place with some outputs of earlier steps replaced, in full.

    Args:
        store: Of the run that is forked. It is only read.

    Raises:
        InputError: No such step has run there.
    """
    records = dict(point.innermost.records)
    for name, values in outputs.items():
        if name not in records:
            there = f"steps with outputs: {', '.join(records) or 'none'}"
            raise InputError(
                f"step `{name}` has no outputs to set: it did not run before the fork",
                hint=did_you_mean(name, records, otherwise=there),
            )
        record = cast("dict[str, Any]", dict(records[name]))
        changed = store.get(record.get("outputs") or {})
        for key, value in values.items():
            changed = _put(changed, key.split("."), value, f"steps.{name}.outputs")
        records[name] = cast("Record", {**record, "outputs": changed})
    return point.with_records(records)


def with_values(point: ForkPoint, store: OutputStore, changes: ForkChanges) -> ForkPoint:
    """The same place with some named values replaced, in full.

    A value whose step's output is replaced is replaced, too.

    Args:
        point: The place, with the outputs that it has in the run that is forked.
        store: Of that run. It is only read.

    Raises:
        InputError: No such value was set there.
    """
    inner = point.innermost
    values = dict(inner.values)
    for step, outputs in changes.outputs.items():
        before = store.get(inner.records.get(step, Record()).get("outputs") or {})
        for name in values.keys() & {key for key in outputs if "." not in key}:
            if isinstance(before, dict) and before.get(name, ...) == store.get(values[name]):
                values[name] = _typed(before[name], outputs[name])
    for name, value in changes.values.items():
        if name not in values:
            there = f"values that are set: {', '.join(values) or 'none'}"
            raise InputError(
                f"`values.{name}` cannot be set: no step set it before the fork",
                hint=did_you_mean(name, values, otherwise=there),
            )
        values[name] = _typed(store.get(values[name]), value)
    return point.with_values(values)


def by_reference(point: ForkPoint, store: OutputStore) -> ForkPoint:
    """The same place with large outputs kept in a store."""
    records = {
        name: cast("Record", {**record, "outputs": store.put(record.get("outputs"))})
        for name, record in point.innermost.records.items()
    }
    values = {name: store.put(value) for name, value in point.innermost.values.items()}
    return point.with_records(records).with_values(values)


def _put(into: Any, keys: list[str], value: Any, path: str) -> Any:
    """A JSON value with one place changed. A text becomes the type of the previous value."""
    if not keys:
        return _typed(into, value)
    key, *rest = keys
    if isinstance(into, list) and key.isdecimal() and int(key) < len(cast("list[Any]", into)):
        items = list(cast("list[Any]", into))
        items[int(key)] = _put(items[int(key)], rest, value, f"{path}.{key}")
        return items
    if not isinstance(into, dict):
        raise InputError(f"`{path}` is not a mapping with the key `{key}`")
    table = dict(cast("dict[str, Any]", into))
    table[key] = _put(table.get(key, {} if rest else None), rest, value, f"{path}.{key}")
    return table


def _typed(before: Any, value: Any) -> Any:
    if isinstance(before, str) or not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError:
        return value


# -- the beginning, kept for a fork that is killed before its first checkpoint --------------------


def write_point(record: RunRecord, point: ForkPoint) -> None:
    """Store the beginning of a fork beside its record.

    Raises:
        StoreError: It can't be written.
    """
    path = record.entry
    try:
        write_private(path, to_json(point.as_dict()), sync="none")
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error}") from error


def read_point(record: RunRecord) -> ForkPoint | None:
    """The beginning of a forked run; None: at its plan's first step.

    Raises:
        StoreError: The file is damaged.
    """
    path = record.entry
    try:
        return ForkPoint.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{path} cannot be read: {error}") from error


# -- warnings -------------------------------------------------------------------------------------


def new_outputs(
    point: ForkPoint, store: OutputStore, outputs: Mapping[str, Mapping[str, Any]]
) -> list[str]:
    """The replaced outputs that their steps did not have: their names may be mistyped.

    Args:
        point: The place in the run that is forked.
        store: Of that run.
    """
    found: list[str] = []
    for step, values in outputs.items():
        record = point.innermost.records.get(step) or Record()
        given = store.get(record.get("outputs") or {})
        for key in {name.partition(".")[0]: None for name in values}:
            if isinstance(given, dict) and key not in given:
                names = ", ".join(map(str, cast("dict[str, Any]", given))) or "none"
                found.append(f"`{step}` gave no output `{key}`, which is set: it gave {names}")
    return found


def notices(
    history: RunHistory, plan: Plan, point: ForkPoint, inputs: Mapping[str, Any]
) -> list[str]:
    """The work that a user may expect to run again in a fork, but that does not.

    Args:
        plan: Of the fork.
        inputs: Of the fork, in full.
    """
    kept = _kept_steps(plan, point)
    before = inherited_inputs(history, plan)
    other = {name for name, value in inputs.items() if before.get(name) != value}
    changed = _changed(history, plan)
    found = [
        f"`{name}` read the input `{used}` in run {history.run} and is not run again: its outputs "
        "are from then"
        for name in kept
        for used in sorted(_inputs_read(plan, name) & other)
    ]
    return found + [
        f"`{name}` has changed since run {history.run} and is not run again: its outputs are from "
        "then"
        for name in kept
        if name in changed
    ]


def _kept_steps(plan: Plan, point: ForkPoint) -> list[str]:
    """The steps that have run and that the fork does not reach again."""
    flow = Flow(plan)
    names = [step.name for step in plan.steps if step.name in point.records]
    return [n for n in names if n != point.step and not flow.can_precede(point.step, n)]


def _inputs_read(plan: Plan, name: str) -> set[str]:
    """The inputs that a step's templates and rules name. If that is unknown, all of them."""
    step = plan.step(name)
    found: set[str] = set()
    for inner in step.walk():
        for text in texts_of(Placed(inner, "")):
            paths = [reference.path for reference in references(text.value)]
            found |= {str(path[1]) for path in paths if path[:1] == ("inputs",) and path[1:]}
            if ("inputs",) in paths:
                found |= set(plan.inputs)
    return found


def _changed(history: RunHistory, plan: Plan) -> set[str]:
    before = plan_of(history.record, history.head)
    if before is None or plan_hash(before) == plan_hash(plan):
        return set()
    return changed_steps(plan_changes(before, plan))
