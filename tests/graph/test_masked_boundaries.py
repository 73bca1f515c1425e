"""Secrets are masked where something leaves a run, so that no caller has to think of it."""

from __future__ import annotations

import inspect
import json
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
from langchain_core.messages import AIMessage, HumanMessage

from fractale import questions
from fractale.agents.catalog import Catalog
from fractale.agents.subagent import AgentAnswer, AgentRequest, Subagent
from fractale.errors import ToolError
from fractale.events import Event, EventKind
from fractale.graph.call import Attempt
from fractale.graph.context import MASKED, Dependencies, RunContext
from fractale.models import Models
from fractale.plan.build import parse_plan
from fractale.plan.model import Step
from fractale.questions import Answers
from fractale.runs import RunOptions, Runs
from fractale.store.journal import Call, CallSite, Journal, MaskedJournal
from fractale.store.notes import MemoryNotes
from fractale.store.outputs import MemoryOutputs
from fractale.testing import FakeToolServer, ScriptedModel
from fractale.toolbox import ToolResult

SECRET = "hunter2-of-the-cluster"
LONG = f"{'x' * 3000} {SECRET} {'y' * 3000}"
"""The secret is where an event, a note and an inline output would cut a text."""

NESTED = {"text": f"it is {SECRET}", "list": [SECRET, {SECRET: LONG}]}


class Recorder(Journal):
    """Everything that reaches the outside of a run."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def finish(self, site: CallSite, call: Call, result: Any) -> Any:
        self.seen.append(result)
        return result

    def note(self, site: CallSite, what: Any) -> None:
        self.seen.append(what)

    def hear(self, event: Event) -> None:
        self.seen.append(event.data)

    def keep(self, path: str, text: str) -> None:
        self.seen.append(text)


class Kept(MemoryNotes):
    """Notes that a recorder sees."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self._recorder = recorder

    def put(self, key: str, value: Any) -> None:
        self._recorder.seen.append(value)


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def context(recorder: Recorder) -> RunContext:
    """A part of a run. The journal is set last, as that of a run is."""
    made = RunContext(
        secrets=(SECRET,),
        emit_event=recorder.hear,
        notes=Kept(recorder),
        keep_draft=recorder.keep,
    )
    made.journal = recorder
    return replace(made, depth=1)


SITE = CallSite(task="t", number=1, tries=1, step="s", attempt=1)
CALL = Call(kind="tool", name="x", digest="d")


@pytest.mark.parametrize("kind", get_args(EventKind))
def test_every_kind_of_event_is_masked(context, recorder, kind):
    more = {"text": LONG} if kind in ("tool_finished", "model_finished") else {}
    outputs = {"outputs": NESTED} if kind == "step_finished" else {}
    context.emit(kind, step="s", any=NESTED, **more, **outputs)
    context.emit_event(Event(kind, "run", {"any": NESTED, **more, **outputs}))
    assert len(recorder.seen) == 2
    assert SECRET[:8] not in json.dumps(recorder.seen)


def test_the_journal_notes_and_drafts_of_a_run_are_masked(context, recorder):
    context.journal.finish(SITE, CALL, NESTED)
    context.journal.note(SITE, {"fault": NESTED})
    context.notes.put("key", NESTED)
    context.keep_draft("s", LONG)
    assert len(recorder.seen) == 4
    assert SECRET not in json.dumps(recorder.seen)


def test_what_an_attempt_puts_into_the_outputs_is_masked(context):
    store = MemoryOutputs()
    deps = Dependencies(toolbox=FakeToolServer(), outputs=store)
    step = Step(name="s", kind="tool", target="x")
    attempt = Attempt(step=step, path="s", deps=deps, context=context, config={})
    kept = attempt.deps.outputs.put(NESTED)
    assert SECRET not in json.dumps(store.get(kept))


def test_a_result_is_used_as_its_journal_has_it(context):
    """So a resumed run decides as the first one did."""
    assert context.journal.finish(SITE, CALL, {"text": SECRET}) == {"text": "***"}


def test_no_call_of_the_journal_passes_by_the_masks():
    """Each of its methods is either passed on, since it takes no data, or masks."""
    methods = {name: f for name, f in vars(Journal).items() if inspect.isfunction(f)}
    public = {name: f for name, f in methods.items() if not name.startswith("_")}
    plain = {"self", "site", "call", "sites"}
    with_data = {n for n, f in public.items() if set(inspect.signature(f).parameters) - plain}
    masked = MaskedJournal(Journal.__subclasses__()[0](), RunContext().masker)  # type: ignore[call-arg]
    assert with_data == {"finish", "note"}
    assert with_data <= set(vars(MaskedJournal))
    assert set(public) - with_data <= set(vars(masked))


def test_what_leaves_a_run_is_wrapped_however_it_is_set(recorder):
    context = RunContext(emit_event=recorder.hear)
    context.emit_event, context.journal = recorder.hear, recorder
    for name, wrap in MASKED.items():
        assert type(getattr(context, name)) is wrap
        assert type(getattr(replace(context), name)) is wrap


async def leak(host: Any, request: AgentRequest) -> AgentAnswer:
    """An agent that puts the secret into everything that it may say."""
    host.warn("own", f"warning {SECRET}")
    host.show(f"table {SECRET}", [{SECRET: LONG}])
    host.remember("small", SECRET)
    host.remember("large", NESTED)
    for piece in ("a piece of ", SECRET[:9], SECRET[9:], " of text"):
        host.on_text(piece if piece != SECRET[:9] else "")
    host.on_text(f"whole {SECRET}")
    if request.inputs.get("fail"):
        raise ToolError(f"cannot log in with {SECRET}", hint=f"not {SECRET}")
    tools = {tool.name: tool for tool in await host.tools()}
    result = await host.call_tool(tools["leaky"], {})
    return AgentAnswer(
        outputs={"said": NESTED, "result": result.text, "warnings": [f"lost {SECRET}"]},
        text=LONG,
        messages=[HumanMessage(f"use {SECRET}"), AIMessage(LONG)],
    )


async def ask(host: Any, request: AgentRequest) -> AgentAnswer:
    """An agent that asks the user with the secret in its question."""
    answer = host.ask_person(questions.question(host.path, f"Log in with {SECRET}?", []))
    return AgentAnswer(outputs={"answer": f"{answer} {SECRET}"}, error=f"no, {SECRET}")


PLAN = """
name: leaks
steps:
  - {name: leak, agent: leak, persist: true}
  - {name: fail, agent: leak, inputs: {fail: true}, transitions: {failure: tool}}
  - {name: tool, tool: leaky, rules: {success: ["'log' in content"]}}
  - {name: elicit, tool: elicit, transitions: {failure: each}}
  - {name: each, tool: leaky, foreach: {over: [1, 2]}, keep_going: true}
  - {name: broken, tool: broken, transitions: {failure: ask}}
  - {name: ask, agent: ask, transitions: {failure: success}}
outputs: {all: "{{ steps }}"}
"""


def leaky_server() -> FakeToolServer:
    server = FakeToolServer()

    @server.tool(read_only=True)
    def leaky() -> ToolResult:
        text = f"log of {SECRET}: {LONG}"
        resource = {"uri": "file:///log", "blob": _base64(f"a file with {SECRET}")}
        file = {"type": "resource", "resource": {**resource, "mimeType": "text/plain"}}
        return ToolResult(
            text=text,
            structured={"content": f"log: {SECRET}", "all": NESTED},
            content=({"type": "text", "text": text}, file),
        )

    @server.tool
    async def elicit() -> str:
        answer = await server.elicit(f"Is {SECRET} right?")
        return f"{answer['action']} {SECRET}"

    @server.tool
    def broken() -> str:
        raise RuntimeError(f"cannot log in with {SECRET}")

    return server


def _base64(text: str) -> str:
    import base64

    return base64.b64encode(text.encode()).decode()


def files_of(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


async def test_a_secret_in_every_field_is_in_nothing_that_is_kept_or_reported(settings, tmp_path):
    settings = replace(settings, secrets=(SECRET,), state_dir=tmp_path / "state")
    agents = Catalog([Subagent(name=f.__name__, description="", run=f) for f in (leak, ask)])
    models = Models(settings, given=ScriptedModel([]))
    runs = Runs(settings, leaky_server(), models=models, agents=agents)
    events: list[Event] = []
    options = RunOptions(listeners=(events.append,))
    result = await runs.start(parse_plan(PLAN, "leaks.yaml"), {}, options)
    while result.status == "waiting":
        (question, *_) = result.waiting
        answers = Answers({"elicit": "decline", "ask": "yes"})
        assert SECRET not in json.dumps(question)
        result = await runs.resume(result.run, replace(options, answers=answers))
    outcomes = {step["name"]: step["outcome"] for step in result.steps}
    assert outcomes["ask"] == "failure", result
    reported = json.dumps([event.as_dict() for event in events]) + repr(result)
    files = files_of(tmp_path / "state")
    assert any(path.suffix == ".txt" for path in files), "the file of the tool's answer"
    leaked = [path for path, data in files.items() if SECRET.encode() in data]
    assert SECRET not in reported
    assert leaked == []
    assert reported.count("***") > 20
