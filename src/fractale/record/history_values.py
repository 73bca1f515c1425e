"""The whole values that a run's record refers to: inputs, outputs, and what calls gave."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any, cast

from fractale.errors import StoreError
from fractale.record.history import Asked, CallMade, Item, JobMade, Note, Process, RunHistory, Visit
from fractale.store.outputs import FileOutputs, is_reference
from fractale.store.run_record import RunRecord

KEY_START, KEY_END = b'{"key": "', b'"'


def resolve(folder: RunRecord, value: Any) -> Any:
    """The value that a reference stands for; any other value unchanged.

    A value that is gone or damaged stays the reference, with an `error` that says so.
    """
    if not is_reference(value):
        return value
    try:
        return FileOutputs(folder.outputs).get(value)
    except StoreError as error:
        return {**cast("dict[str, Any]", value), "error": error.message}


def results_of(folder: RunRecord, calls: Iterable[CallMade]) -> dict[str, Any]:
    """What calls gave, whole, by their keys in the run's journal.

    Returns:
        For a tool ``{text, structured, is_error, content}`` or ``{error}``, for a model its
        answer or message. Calls without a key, or without a result, are left out.

    Raises:
        StoreError: The journal cannot be read.
    """
    wanted = {call.key.encode() for call in calls if call.key}
    if not wanted:
        return {}
    found: dict[str, Any] = {}
    path = folder.journal
    try:
        with path.open("rb") as file:
            for line in file:
                if _key_of(line) in wanted and (entry := json.loads(line)) and "result" in entry:
                    found[entry["key"]] = entry["result"]
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise StoreError(f"the run's journal {path} cannot be read: {error}") from error
    return found


def _key_of(line: bytes) -> bytes:
    """The key of a line, without reading what may be large behind it."""
    if not line.startswith(KEY_START) or not line.endswith(b"\n"):
        return b""
    return line[len(KEY_START) : line.find(KEY_END, len(KEY_START))]


# -- as JSON ------------------------------------------------------------------------------------


def history_data(history: RunHistory) -> dict[str, Any]:
    """A whole history as JSON, every value in full."""
    results = results_of(history.folder, history.calls())
    return {
        "run": history.run,
        "status": history.status,
        "plan": history.head.get("plan"),
        "title": history.title,
        "file": history.head.get("file"),
        "plan_hash": history.head.get("plan_hash"),
        "parent": history.head.get("parent"),
        "started": history.started,
        "ended": history.ended,
        "usage": history.usage,
        "inputs": {name: resolve(history.folder, value) for name, value in history.inputs.items()},
        "models": history.models,
        "versions": dict(history.versions),
        "tools": dict(history.tools),
        "record": str(history.folder.path),
        "processes": [_plain(process) for process in history.processes],
        "steps": history.steps,
        "drafts": dict(history.drafts),
        "visits": [visit_data(history, visit, results) for visit in history.visits],
        "questions": [_plain(asked) for asked in history.questions],
        "warnings": [_plain(note) for note in history.warnings],
        "result": dict(history.result),
    }


def visit_data(
    history: RunHistory, visit: Visit, results: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """One visit as JSON, its values in full.

    Args:
        results: Of its calls, as `results_of` gives them; they are read where None.
    """
    if results is None:
        results = results_of(history.folder, visit.calls)
    folder = history.folder
    data = _plain(visit, "parent", "items", "calls", "jobs", "questions", "warnings")
    data["inputs"], data["outputs"] = resolve(folder, visit.inputs), resolve(folder, visit.outputs)
    data["cost"] = round(visit.cost, 6)
    data["calls"] = [
        _plain(call) | {"result": results.get(call.key) if call.key and call.came_back else None}
        for call in visit.calls
    ]
    data["items"] = [
        {
            **_plain(item),
            "inputs": resolve(folder, item.inputs),
            "outputs": resolve(folder, item.outputs),
        }
        for _, item in sorted(visit.items.items())
    ]
    data["jobs"] = [_plain(job) for job in visit.jobs]
    data["questions"] = [_plain(asked) for asked in visit.questions]
    data["warnings"] = [_plain(note) for note in visit.warnings]
    return data


def _plain(
    value: Visit | CallMade | Item | JobMade | Asked | Note | Process, *without: str
) -> dict[str, Any]:
    return {f.name: getattr(value, f.name) for f in fields(value) if f.name not in without}
