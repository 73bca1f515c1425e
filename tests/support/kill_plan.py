"""A plan with every kind of step, its tools and its model, to be killed at any moment.

The tools write each call into a file when they do their work, so that a test can count what
really happened; the model answers by what it is told, so that it answers alike in any process.
"""

from __future__ import annotations

import json
from typing import Any

from fractale.testing.model_server import ModelRequest, Reply

TOOLS = '''
import json, os, time

def _note(name, **arguments):
    time.sleep(0.03)
    line = json.dumps([name, arguments], sort_keys=True) + "\\n"
    file = os.open("calls.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.write(file, line.encode())
    os.close(file)
    time.sleep(0.03)

def change(what: str) -> dict:
    """Change something."""
    _note("change", what=what)
    return {"returncode": 0, "changed": what, "filler": "x" * 2000}

def look(what: str) -> dict:
    """Look at something."""
    _note("look", what=what)
    return {"seen": what}
'''

REGISTRY = """
tools:
  - path: kill_tools.change
  - {path: kill_tools.look, annotations: {readOnlyHint: true}}
prompts:
  - path: kill_prompts.expert
"""

PROMPTS = '''
def expert(topic: str) -> str:
    """Ask an expert."""
    return f"EXPERT on {topic}: answer as JSON."
'''

PLAN = """
name: killed
inputs: {topic: MPI}
steps:
  - {name: first, tool: change, inputs: {what: first}}
  - {name: see, tool: look, inputs: {what: "{{ steps.first.outputs.changed }}"}}
  - {name: ask, prompt: expert, allow_tools: false, inputs: {topic: "{{ inputs.topic }}"}}
  - {name: use, tool: change, inputs: {what: "{{ steps.ask.outputs.answer }}"}}
  - {name: work, type: agent, instruction: WORK with the tools, tools: [look, change]}
  - {name: again, tool: change, inputs: {what: again}, transitions: {success: many}}
  - {name: many, tool: change, inputs: {what: "item {{ item }}"}, foreach: "range(3) | list"}
  - {name: approved, tool: change, inputs: {what: approved}, approve: always}
  - name: both
    parallel:
      - {name: left, tool: change, inputs: {what: left}}
      - {name: right, tool: look, inputs: {what: right}}
  - {name: drafted, type: plan, instruction: DRAFT a step, tools: [change]}
  - {name: judged, tool: look, inputs: {what: judged}, judge: true}
  - {name: last, tool: change, inputs: {what: "{{ steps.drafted.outcome }}"}}
outputs:
  answer: "{{ steps.ask.outputs.answer }}"
  work: "{{ steps.work.outputs.content }}"
  many: "{{ steps.many.outputs | map(attribute='changed') | list }}"
  drafted: "{{ steps.drafted.outputs.changed }}"
"""
STEPS = [
    "first",
    "see",
    "ask",
    "use",
    "work",
    "again",
    "many",
    "approved",
    "both",
    "drafted",
    "judged",
    "last",
]  # the steps of the plan in their order

OUTPUTS = {
    "answer": "forty-two",
    "work": "worked",
    "many": ["item 0", "item 1", "item 2"],
    "drafted": "by the draft",
}

CHANGES = sorted(
    [
        "first",
        "forty-two",
        "by the agent",
        "again",
        "item 0",
        "item 1",
        "item 2",
        "approved",
        "left",
        "by the draft",
        "success",
    ]
)
"""What `change` is called with in the whole run, each exactly once."""


def model(request: ModelRequest) -> Reply:
    """The model: what it answers depends on what it is told only."""
    text = json.dumps(request.body["messages"])
    if "EXPERT on" in text:
        return Reply(data={"answer": "forty-two"})
    if "You judge whether" in text:
        return Reply(data={"success": True, "reason": "it was seen"})
    if "WORK with the tools" in text:
        return _working(request)
    return Reply(data=DRAFT)


DRAFT: dict[str, Any] = {
    "steps": [{"name": "do", "tool": "change", "inputs": {"what": "by the draft"}}]
}


def _working(request: ModelRequest) -> Reply:
    answers = sum(message["role"] == "tool" for message in request.body["messages"])
    if answers == 0:
        return Reply(tool_calls=[("look", {"what": "around"})])
    if answers == 1:
        return Reply(tool_calls=[("change", {"what": "by the agent"})])
    return Reply(text="worked")
