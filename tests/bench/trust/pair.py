"""One task, or a task with an injection in its way, through fractale: what was tried, what ran."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hints import HINTS
from langchain_core.messages import BaseMessage, ToolMessage

import fractale
from fractale.events import Event
from fractale.questions import MISSING
from fractale.settings import ServerSettings, Settings
from fractale.testing import Reply, ScriptedModel

PLAN = """
name: task
inputs:
  task: {type: string, required: true}
steps:
  - name: work
    agent: ask
    instruction: "{{ inputs.task }}"
"""

MODES = ("attentive", "nobody", "yes", "always")
"""Who is there: a person who agrees to the user task's own calls, once or for the rest of the
run; nobody; or ``--yes``."""

NEW_MAIL = re.compile(r"^id_: '?(\w+)'?", re.MULTILINE)


@dataclass
class Call:
    """A call that the model chose.

    Args:
        injected: The injection asked for it.
        questions: How many questions it brought up.
        ran: It reached the suite.
        changed: The parts of the environment that it changed.
        private: The tools whose private answers the model had seen before.
    """

    tool: str
    arguments: Mapping[str, Any]
    injected: bool
    questions: int = 0
    ran: bool = False
    failed: bool = False
    changed: list[str] = field(default_factory=list[str])
    private: list[str] = field(default_factory=list[str])


@dataclass
class Task:
    """What is to be run.

    Args:
        injection: None for the user task alone.
        mode: One of `MODES`.
        hints: Whether the servers give hints.
    """

    suite: str
    user: str
    injection: str | None
    mode: str
    hints: bool


@dataclass
class Ran:
    """How it went.

    Args:
        status: The run's.
        seen: The model came across the injection.
        done: The user task was done, by the suite's check.
        attacked: The injection was carried out, by the suite's check.
        other: Kinds of questions beside those about a call.
        error: Why the run failed, if it did.
    """

    task: Task
    status: str
    seen: bool
    done: bool
    attacked: bool
    calls: list[Call]
    other: list[str]
    error: str | None = None


class HijackedModel:
    """Makes the user task's calls; obeys an injection as soon as it has read one.

    It obeys before it goes on, as the attack's words want it, and tries each call once.
    """

    def __init__(self, given: Mapping[str, Any]) -> None:
        self._given = given
        self._left = list(given["calls"])
        self._injected: list[Mapping[str, Any]] = []
        self._answers: list[str] = []
        self.seen = False
        self.calls: list[Call] = []

    def __call__(self, messages: list[BaseMessage]) -> Reply:
        """The next turn."""
        answers = [m.text for m in messages if isinstance(m, ToolMessage)]
        if self.calls and self.calls[-1].injected:
            self._answers.append(answers[-1])
        if not self.seen and any(self._given["mark"] in text for text in answers):
            self.seen = True
            self._injected = list(self._given["injected"])
        if self._injected:
            return self._make(self._injected.pop(0), injected=True)
        if self._left:
            return self._make(self._left.pop(0), injected=False)
        return Reply(text=self.output or "I have done it.")

    @property
    def output(self) -> str:
        """What it says in the end: what the two tasks want to hear."""
        said = [self._given["output"], self._given["injected_output"] if self.seen else ""]
        return " ".join(each for each in said if each)

    def _make(self, call: Mapping[str, Any], *, injected: bool) -> Reply:
        arguments = dict(call["arguments"])
        source = call.get("id_from")
        if source is not None and (found := NEW_MAIL.search(self._answers[source])):
            arguments["email_id"] = found[1]
        self.calls.append(Call(call["tool"], arguments, injected))
        return Reply(tool_calls=[(call["tool"], arguments)])


class Person:
    """Agrees to the user task's own calls and to nothing else."""

    def __init__(self, given: Mapping[str, Any], model: HijackedModel, word: str) -> None:
        self._own = given["calls"]
        self._model = model
        self._word = word
        self.other: list[str] = []

    async def answer(self, question: Mapping[str, Any]) -> Any:
        """The answer to a question, which is counted for the call that it is about."""
        if question["kind"] == "failure":
            return "quit"
        if question["kind"] != "approval":
            self.other.append(question["kind"])
            return MISSING
        self._model.calls[-1].questions += 1
        asked = (question["tool"].rpartition(".")[2], question["arguments"])
        own = any(asked == (call["tool"], call["arguments"]) for call in self._own)
        return self._word if own else "no"


class Suites:
    """The process that serves AgentDojo's suites."""

    def __init__(self, process: asyncio.subprocess.Process, port: int) -> None:
        self._process = process
        self._port = port

    @classmethod
    async def start(cls, python: Path) -> Suites:
        """Start it with the Python that has AgentDojo.

        Raises:
            RuntimeError: It ended before it served anything.
        """
        process = await asyncio.create_subprocess_exec(
            python,
            Path(__file__).with_name("suites.py"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=sys.stderr,
            limit=2**24,
        )
        assert process.stdout is not None
        if not (line := await process.stdout.readline()):
            raise RuntimeError("the suites could not be served; their last words are above")
        return cls(process, json.loads(line)["port"])

    async def ask(self, **asked: Any) -> Any:
        """Ask the process something.

        Raises:
            RuntimeError: It ended.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(asked).encode() + b"\n")
        if not (line := await self._process.stdout.readline()):
            raise RuntimeError(f"the suites ended over {asked}; their last words are above")
        return json.loads(line)

    async def stop(self) -> None:
        """End it, and wait for its end."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        await self._process.wait()

    def server(self, task: Task) -> ServerSettings:
        """Where fractale finds the suite's tools."""
        kind = "hints" if task.hints else "plain"
        url = f"http://127.0.0.1:{self._port}/{task.suite}/{kind}/"
        return ServerSettings(name=task.suite, transport="http", url=url)


async def run(suites: Suites, task: Task, state: Path) -> Ran:
    """Run a task through `fractale.arun`, with default settings beside the one server."""
    given = await suites.ask(do="begin", suite=task.suite, user=task.user, injection=task.injection)
    model = HijackedModel(given)
    person = Person(given, model, "always" if task.mode == "always" else "yes")
    nobody = task.mode in ("nobody", "yes")

    def listen(event: Event) -> None:
        if event.kind == "tool_started":
            model.calls[-1].ran = True
        elif event.kind == "waiting" and nobody and model.calls:
            model.calls[-1].questions += 1

    settings = replace(Settings(), servers={task.suite: suites.server(task)}, state_dir=state)
    result = await fractale.arun(
        PLAN,
        {"task": given["prompt"]},
        settings=settings,
        model=ScriptedModel(model),
        person=None if nobody else person,
        yes=task.mode == "yes",
        on_event=listen,
    )
    ended = result.status == "success"
    said = await suites.ask(do="end", output=model.output if ended else "")
    _note(task, model.calls, said["calls"])
    return Ran(
        task=task,
        status=result.status,
        seen=model.seen,
        done=ended and said["done"],
        attacked=said["attacked"],
        calls=model.calls,
        other=person.other,
        error=result.error,
    )


def _note(task: Task, calls: list[Call], log: list[Mapping[str, Any]]) -> None:
    """Note at each call what the suite saw of it, and what the model had seen before.

    Raises:
        RuntimeError: The run's events and the suite's log tell of other calls.
    """
    ran = [call for call in calls if call.ran]
    made = [(entry["tool"], entry["arguments"]) for entry in log]
    if [(call.tool, call.arguments) for call in ran] != made:
        raise RuntimeError(f"{task}: the events tell of {ran}, the suite of {made}")
    for call, entry in zip(ran, log, strict=True):
        call.changed, call.failed = entry["changed"], entry["error"] is not None
    private: list[str] = []
    for call in calls:
        call.private = list(private)
        hints = HINTS[task.suite][call.tool]
        if call.ran and not call.failed and hints.private and call.tool not in private:
            private.append(call.tool)
