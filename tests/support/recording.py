"""Records of runs written by hand: what real runs do not do twice the same, or only when killed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fractale.store.outputs import FileOutputs
from fractale.store.run_record import RunRecord, RunRecords

BEGIN = 1_795_392_000.0


class Recording:
    """Writes the record of a run, event by event; each takes half a second."""

    def __init__(self, state_dir: Path, run_id: str = "k7f3a", **head: Any) -> None:
        self.folder: RunRecord = RunRecords(state_dir).new(run_id)
        self.outputs = FileOutputs(self.folder.outputs)
        self.time = BEGIN
        self.folder.write_head(
            {
                "version": 1,
                "plan": "translate",
                "file": "plans/translate.yaml",
                "plan_hash": "0123456789abcdef" * 4,
                "inputs": {"script": "job.sbatch"},
                "started": self.time,
                **head,
            }
        )

    def add(self, kind: str, **data: Any) -> Recording:
        line = {"event": kind, "run": self.folder.run_id, "time": self.time, **data}
        with (self.folder.path / "events.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
        self.time += 0.5
        return self

    def start(self, *steps: str, **more: Any) -> Recording:
        plan = [{"name": step, "type": "tool", "target": step} for step in steps]
        given = {"title": "Translate a script", "model": None, "resumed": False, "limits": {}}
        return self.add("run_started", plan="translate", steps=plan, **{**given, **more})

    def enter(self, step: str, attempt: int = 1, **more: Any) -> Recording:
        given = {"type": "tool", "target": step, "description": "", "previous": None}
        return self.add("step_started", step=step, attempt=attempt, **{**given, **more})

    def call(self, step: str, number: int = 1, *, end: bool = True, **more: Any) -> Recording:
        told = {"step": step, "tool": more.pop("tool", step), "call": number}
        arguments = more.pop("arguments", {"path": "x"})
        key = {"key": more.pop("key")} if "key" in more else {}
        self.add("tool_started", **told, arguments=arguments, **key)
        given = {"is_error": False, "seconds": 0.25, "text": "{}"}
        return self.add("tool_finished", **told, **{**given, **more}) if end else self

    def ask_model(self, step: str, number: int = 1, text: str = "42", **more: Any) -> Recording:
        told = {"step": step, "model": "openai:gpt-5", "call": number}
        self.add("model_started", **told)
        given = {"seconds": 1.5, "input_tokens": 100, "output_tokens": 20, "cost": 0.002}
        return self.add("model_finished", **told, **{**given, **more}, text=text)

    def leave(self, step: str, attempt: int = 1, **more: Any) -> Recording:
        outcome = more.get("outcome", "success")
        given = {
            "outcome": outcome,
            "event_name": outcome,
            "decided_by": "default",
            "reason": "",
            "error": None,
            "code": None,
            "seconds": 0.5,
            "tokens": 0,
            "next": "success",
            "outputs": {},
        }
        return self.add("step_finished", step=step, attempt=attempt, **{**given, **more})

    def visit(self, step: str, attempt: int = 1, **more: Any) -> Recording:
        return self.enter(step, attempt).leave(step, attempt, **more)

    def end(self, status: str = "success", **more: Any) -> Recording:
        used = {"input_tokens": 100, "output_tokens": 20, "total_tokens": 120, "cost": 0.002}
        given = {
            "steps": [],
            "outputs": {},
            "error": None,
            "hint": None,
            "decided": None,
            "usage": {**used, "seconds": 3.5},
            "record": ".fractale/runs/k7f3a",
            "waiting": [],
            "output_files": {},
            "next": [],
        }
        return self.add("run_finished", status=status, **{**given, **more})


def translation(state_dir: Path, run_id: str = "k7f3a", **head: Any) -> Recording:
    """A run that goes back once, asks once, and has a server that says what it should not."""
    run = Recording(
        state_dir,
        run_id,
        versions={"fractale": "0.2.0", "langgraph": "1.2.22", "python": "3.11.2"},
        tools={"validate": "a1b2c3d4" * 8},
        **head,
    )
    run.start("transform", "validate", "submit", model="openai:gpt-5")
    for attempt in (1, 2):
        previous = "validate" if attempt == 2 else None
        run.enter("transform", attempt, type="prompt", target="expert", previous=previous)
        run.ask_model("transform", text=f"#FLUX: -N{attempt}")
        given = {"script": "#!/bin/bash\n#SBATCH -N 2\nsrun lmp\n"}
        run.leave(
            "transform",
            attempt,
            next="validate",
            tokens=120,
            seconds=1.6,
            inputs_ref=given,
            outputs={"jobspec": "…"},
            outputs_ref={"jobspec": "#!/bin/bash\n#FLUX: -N2\n" + "lmp\n" * attempt},
        )
        run.enter("validate", attempt, previous="transform")
        run.call("validate", arguments={"jobspec": "#FLUX: -N2"}, text='{"valid": false}')
        if attempt == 1:
            run.leave(
                "validate",
                outcome="failure",
                decided_by="exit_code",
                reason="unknown directive \x1b[31m-c8\x1b[0m (line 4)",
                error="unknown directive \x1b[31m-c8\x1b[0m (line 4)",
                next="transform",
                outputs_ref={"valid": False},
            )
    run.leave(
        "validate",
        2,
        decided_by="rule",
        reason="rule `valid`",
        next="submit",
        outputs_ref={"valid": True},
    )
    question = {"kind": "approval", "step": "submit", "tool": "submit", "id": "f" * 32}
    asked = {**question, "arguments": {"nodes": 2}, "why": "changes something; policy: ask"}
    run.enter("submit", previous="validate").add("waiting", step="submit", question=asked)
    run.end("waiting", waiting=[asked])
    run.start("transform", "validate", "submit", model="openai:gpt-5", resumed=True)
    run.add("answered", step="submit", question=asked, answer=True, by="person")
    run.enter("submit", previous="validate").call("submit", arguments={"nodes": 2}, text="job 7")
    run.add("warning", step="submit", code="slow", message="the queue is long")
    run.leave("submit", outputs_ref={"content": "job 7"})
    decided = {"step": "submit", "by": "default", "reason": ""}
    return run.end("success", outputs={"job": 7}, decided=decided)
