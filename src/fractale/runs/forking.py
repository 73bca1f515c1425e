"""The folder of a forked run: what it takes from the run it comes from, and what is changed."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from fractale.errors import InputError, StoreError, UsageError
from fractale.graph.entry import Entry
from fractale.graph.state import Record
from fractale.jobs.budget import FileLedger, inherited
from fractale.plain import to_json
from fractale.plan.expressions import references
from fractale.plan.flow import Flow
from fractale.plan.model import Plan
from fractale.plan.scope import Placed, texts_of
from fractale.private import copy_private, make_folder, write_private
from fractale.record.history import RunHistory
from fractale.record.plans import plan_hash, plan_of
from fractale.runs.changes import changed_steps, plan_changes
from fractale.runs.fork import innermost, with_innermost
from fractale.store.checkpoints import references_in
from fractale.store.outputs import FileOutputs, OutputStore
from fractale.store.run_record import RunRecord
from fractale.text import did_you_mean


@dataclass(frozen=True, slots=True, kw_only=True)
class ForkChanges:
    """What is another way in a fork.

    Args:
        inputs: Of the plan, values or texts; the others are those of the run that is forked.
        outputs: Step → key → value, in place of what the step gave; a dot in a key leads deeper.
    """

    inputs: Mapping[str, Any] = field(default_factory=dict[str, Any])
    outputs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict[str, "Mapping[str, Any]"])


def inherited_inputs(history: RunHistory, plan: Plan) -> dict[str, Any]:
    """The inputs of a run that a plan still has, in full; secret ones are kept nowhere."""
    store = FileOutputs(history.folder.outputs)
    return {name: store.get(value) for name, value in history.inputs.items() if name in plan.inputs}


def check_entry(plan: Plan, entry: Entry, path: str = "") -> None:
    """See that a plan has the steps at which it is to be entered.

    Raises:
        UsageError: It has no such step, or what is inside of it is another thing.
    """
    step = next((step for step in plan.steps if step.name == entry.step), None)
    if step is None:
        names = [step.name for step in plan.steps]
        still = "fork the run at a step that it still has"
        raise UsageError(
            f"the plan {plan.file} has no step `{path}{entry.step}` any more",
            hint=did_you_mean(entry.step, names, otherwise=still),
        )
    if entry.inside is None:
        return
    if entry.draft is None and step.plan is not None:
        check_entry(step.plan, entry.inside, f"{path}{entry.step}/")
    elif entry.draft is None or step.kind != "plan" or step.plan is not None:
        raise UsageError(
            f"the step `{path}{entry.step}` of {plan.file} runs another kind of plan than it did",
            hint=f"fork the run where it begins: --at {path}{entry.step}",
        )


def take_over(history: RunHistory, child: RunRecord, entry: Entry, at: float | None = None) -> None:
    """Give a fork what its state refers to, the drafts of the steps before, and their jobs' cost.

    Args:
        history: Of the run that is forked; its files are only read.
        at: When that run came to the place where the fork begins, in Unix time; None: at its end.

    Raises:
        StoreError: An output is gone, or can't be linked or copied.
    """
    data = json.dumps(entry.as_dict()).encode()
    _link_outputs(history.folder, child, data)
    if line := inherited(FileLedger(history.folder.job_ledger), at):
        FileLedger(child.job_ledger).add(line)
    for path, text in history.folder.read_drafts().items():
        if path.partition("/")[0].partition("[")[0] in {*entry.records, entry.step}:
            child.keep_draft(path, text)
    for path, text in _drafts_of(entry):
        child.keep_draft(path, text)


def _drafts_of(entry: Entry, prefix: str = "") -> Iterator[tuple[str, str]]:
    path = f"{prefix}{entry.step}"
    if entry.draft:
        yield path, str(entry.draft.get("text", ""))
    if entry.inside:
        yield from _drafts_of(entry.inside, f"{path}/")


def _link_outputs(parent: RunRecord, child: RunRecord, data: bytes) -> None:
    """Link every output that some data refers to, and those that these refer to in turn."""
    theirs, ours = FileOutputs(parent.outputs), FileOutputs(child.outputs)
    wanted, known = references_in([data]), set[str]()
    while wanted:
        digest = wanted.pop()
        known.add(digest)
        reference = {"$ref": f"sha256:{digest}", "bytes": 0}
        source = theirs.path(reference)
        try:
            _link(source, ours.path(reference))
            wanted |= references_in([source.read_bytes()]) - known
        except OSError as error:
            raise StoreError(
                f"an output of run {parent.run_id} can't be taken over: {error}",
                hint="free space or permissions, or fork the run at an earlier step",
            ) from error


def _link(source: Path, target: Path) -> None:
    """One file in two folders: it never changes, so it need not be there twice."""
    make_folder(target.parent)
    try:
        os.link(source, target)
    except FileExistsError:
        return
    except FileNotFoundError:
        raise
    except OSError:  # a file system without links, or too many of them
        copy_private(source, target)


def with_outputs(
    entry: Entry, store: OutputStore, outputs: Mapping[str, Mapping[str, Any]]
) -> Entry:
    """The same place with some outputs of steps before it replaced, in full.

    Args:
        store: Of the run that is forked; it is only read.

    Raises:
        InputError: No such step has run there.
    """
    records = dict(innermost(entry).records)
    for name, values in outputs.items():
        if name not in records:
            there = f"there are: {', '.join(records) or 'none'}"
            raise InputError(
                f"no step `{name}` has run before the fork begins: it has no outputs to set",
                hint=did_you_mean(name, records, otherwise=there),
            )
        record = cast("dict[str, Any]", dict(records[name]))
        changed = store.get(record.get("outputs") or {})
        for key, value in values.items():
            changed = _put(changed, key.split("."), value, f"steps.{name}.outputs")
        records[name] = cast("Record", {**record, "outputs": changed})
    return with_innermost(entry, records)


def by_reference(entry: Entry, store: OutputStore) -> Entry:
    """The same place with large outputs kept in a store."""
    records = {
        name: cast("Record", {**record, "outputs": store.put(record.get("outputs"))})
        for name, record in innermost(entry).records.items()
    }
    return with_innermost(entry, records)


def _put(into: Any, keys: list[str], value: Any, path: str) -> Any:
    """A JSON value with one place in it changed; texts become the type of what was there."""
    if not keys:
        return _typed(into, value)
    key, *rest = keys
    if isinstance(into, list) and key.isdecimal() and int(key) < len(cast("list[Any]", into)):
        items = list(cast("list[Any]", into))
        items[int(key)] = _put(items[int(key)], rest, value, f"{path}.{key}")
        return items
    if not isinstance(into, dict):
        raise InputError(f"`{path}` is no mapping that has `{key}`")
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


# -- how it begins, kept for a fork that is killed before its first checkpoint --------------------


def write_entry(folder: RunRecord, entry: Entry) -> None:
    """Keep how a fork begins beside its record.

    Raises:
        StoreError: It can't be written.
    """
    path = folder.entry
    try:
        write_private(path, to_json(entry.as_dict()), sync="none")
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error}") from error


def read_entry(folder: RunRecord) -> Entry | None:
    """How a run begins that was forked; None: at its plan's first step.

    Raises:
        StoreError: The file is damaged.
    """
    path = folder.entry
    try:
        return Entry.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{path} cannot be read: {error}") from error


# -- what a person should know of ------------------------------------------------------------------


def new_outputs(
    entry: Entry, store: OutputStore, outputs: Mapping[str, Mapping[str, Any]]
) -> list[str]:
    """Which outputs are set that their steps did not give: their names may be mistyped.

    Args:
        entry: As the run that is forked came to it.
        store: Of that run.
    """
    told: list[str] = []
    for step, values in outputs.items():
        record = innermost(entry).records.get(step) or Record()
        given = store.get(record.get("outputs") or {})
        for key in {name.partition(".")[0]: None for name in values}:
            if isinstance(given, dict) and key not in given:
                names = ", ".join(map(str, cast("dict[str, Any]", given))) or "none"
                told.append(f"`{step}` gave no output `{key}`, which is set: it gave {names}")
    return told


def notices(history: RunHistory, plan: Plan, entry: Entry, inputs: Mapping[str, Any]) -> list[str]:
    """What a person may take for done again in a fork, and is not.

    Args:
        plan: Of the fork.
        inputs: Of the fork, in full.
    """
    kept = _kept_steps(plan, entry)
    before = inherited_inputs(history, plan)
    other = {name for name, value in inputs.items() if before.get(name) != value}
    changed = _changed(history, plan)
    told = [
        f"`{name}` read the input `{used}` in run {history.run} and is not run again: its outputs "
        "are from then"
        for name in kept
        for used in sorted(_inputs_read(plan, name) & other)
    ]
    return told + [
        f"`{name}` has changed since run {history.run} and is not run again: its outputs are from "
        "then"
        for name in kept
        if name in changed
    ]


def _kept_steps(plan: Plan, entry: Entry) -> list[str]:
    """The steps that have run and that the fork does not come to again."""
    flow = Flow(plan)
    names = [step.name for step in plan.steps if step.name in entry.records]
    return [n for n in names if n != entry.step and not flow.can_precede(entry.step, n)]


def _inputs_read(plan: Plan, name: str) -> set[str]:
    """The inputs that a step's templates and rules name; all of them where that can't be known."""
    step = plan.step(name)
    found: set[str] = set()
    for placed in (Placed(step, ""), *(Placed(inner, "") for inner in step.steps)):
        for text in texts_of(placed):
            paths = [reference.path for reference in references(text.value)]
            found |= {str(path[1]) for path in paths if path[:1] == ("inputs",) and path[1:]}
            if ("inputs",) in paths:
                found |= set(plan.inputs)
    return found


def _changed(history: RunHistory, plan: Plan) -> set[str]:
    before = plan_of(history.folder, history.head)
    if before is None or plan_hash(before) == plan_hash(plan):
        return set()
    return changed_steps(plan_changes(before, plan))
