"""Sweeps made for tests: as views, and as records on a disk whose runs need not exist."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from fractale.sweeps.record import SweepLedger, SweepRecord, SweepRecords, run_id_of
from fractale.sweeps.results import LimitView, RowView, SweepView

START = 1_800_000_000.0
HOSTILE = "\x1b[31mred\x1b]0;title\x07 <script>alert(1)</script> \u202eback"


def row_view(row: int, state: str = "success", **more: Any) -> RowView:
    """A row of `view`, which has begun unless it is pending."""
    begun: dict[str, Any] = {} if state == "pending" else {"run": f"s.{row}", "attempt": 1}
    given: dict[str, Any] = {"inputs": {"x": row}, **begun, **more}
    return RowView(row=row, state=state, **given)


def view(rows: Iterable[RowView], **more: Any) -> SweepView:
    """A sweep `s` that has ended, unless it is said otherwise."""
    rows = tuple(rows)
    counts: dict[str, int] = {}
    for row in rows:
        counts[row.state] = counts.get(row.state, 0) + 1
    used: dict[str, float] = {}
    for row in rows:
        for name, amount in row.used.items():
            used[name] = used.get(name, 0) + amount
    given: dict[str, Any] = {
        "plan": "melt",
        "file": "/plans/melt.yaml",
        "plan_hash": "sha256:1",
        "started": START,
        "ended": START + 100,
        "varied": ("x",),
        "executor": "local",
        "status": "failed" if counts.get("failed") else "success",
        "limits": (),
        "open": sum(n for state, n in counts.items() if state not in ("success", "failed")),
        **more,
    }
    return SweepView(id="s", counts=counts, rows=rows, used=used, **given)


def limit(name: str, most: float, used: float, reserved: float = 0.0) -> LimitView:
    return LimitView(name=name, limit=most, used=used, reserved=reserved)


def sweep_record(
    state_dir: Path,
    sweep_id: str,
    rows: Iterable[Mapping[str, Any]],
    ends: Mapping[int, Mapping[str, Any]] | None = None,
    **head: Any,
) -> SweepRecord:
    """The record of a sweep.

    Args:
        rows: The inputs of each row that vary.
        ends: Row → the fields of its ledger line ``ended``; other rows are pending. A row with an
            empty table has started and not ended.
    """
    rows = list(rows)
    record = SweepRecords(state_dir).at(sweep_id)
    record.path.mkdir(parents=True, mode=0o700)
    record.write_rows(rows)
    record.write_head(
        {
            "version": 1,
            "plan": "melt",
            "file": "/plans/melt.yaml",
            "plan_hash": "sha256:1",
            "sweep_file": None,
            "folder": "/plans",
            "inputs": {},
            "varied": list(rows[0]) if rows else [],
            "rows": len(rows),
            "limits": {},
            "run_limits": {},
            "executor": "local",
            "max_parallel": None,
            "options": {},
            "merit": None,
            "started": START,
            **head,
        }
    )
    with SweepLedger(record) as ledger:
        ledger.add(*_lines(sweep_id, ends or {}))
    return record


def _lines(sweep_id: str, ends: Mapping[int, Mapping[str, Any]]) -> Iterable[dict[str, Any]]:
    for row, end in ends.items():
        run = end.get("run", run_id_of(sweep_id, row))
        about = {"row": row, "run": run, "attempt": 1}
        yield {**about, "is": "started", "at": START + row, "reserved": {}}
        if end:
            status = {"status": "success", "used": {}, "outputs": {}, "at": START + row + 1}
            yield {**about, "is": "ended", **status, **end}


def run_records(
    state_dir: Path, sweep_id: str, end: int, status: str = "success", first: int = 0
) -> None:
    """Records of the runs of rows `first` to `end` - 1, as short as a list of runs needs them."""
    waits = [{"kind": "approval", "step": "review"}] if status == "waiting" else []
    for row in range(first, end):
        path = state_dir / "runs" / f"{sweep_id}.{row}"
        path.mkdir(parents=True, mode=0o700)
        head = {
            "plan": "melt",
            "file": "/plans/melt.yaml",
            "started": START + row,
            "inputs": {"x": row},
            "sweep": {"id": sweep_id, "row": row, "attempt": 1},
        }
        (path / "run.json").write_text(json.dumps(head))
        usage = {"seconds": 1.0, "elapsed": 1.0, "total_tokens": 10, "node_hours": 0.1, "jobs": 1}
        ended = {"event": "run_finished", "run": path.name, "time": START + row + 1}
        ended |= {"status": status, "usage": usage, "waiting": waits}
        (path / "events.jsonl").write_text(json.dumps(ended) + "\n")
