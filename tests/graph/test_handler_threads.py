"""The handlers that an application runs after an error ended a plan: in a thread of their own.

They can be cut off there. A call that continues the thread finishes them, and repeats none.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

import fractale
from fractale import Dependencies, compile_plan
from fractale.graph.plan_graph import RunSetup
from fractale.testing import FakeToolServer

THREAD: Any = {"configurable": {"thread_id": "t"}}

LIMITED = """
name: limited
limits: {steps: 2}
steps:
  - {name: x, tool: note, inputs: {word: main 1}}
  - {name: y, tool: note, inputs: {word: main 2}}
  - {name: z, tool: note, inputs: {word: main 3}}
finally:
  - {name: a, tool: note, inputs: {word: a}}
  - {name: b, tool: hold}
  - {name: c, tool: note, inputs: {word: c}}
"""

GAVE_UP = """
name: repeated
steps:
  - name: x
    tool: note
    inputs: {word: main}
    max_attempts: 1
    rules: {again: true}
    transitions: {again: x}
on_failure:
  - {name: a, tool: note, inputs: {word: a}}
  - {name: b, tool: hold}
finally:
  - {name: c, tool: note, inputs: {word: c}}
"""

ENDS = {"limit": (LIMITED, ["main 1", "main 2"]), "failed": (GAVE_UP, ["main"])}

GROUP = """
name: group
limits: {steps: 2}
steps:
  - name: g
    steps:
      - {name: x, tool: note, inputs: {word: main 1}}
      - {name: y, tool: note, inputs: {word: main 2}}
      - {name: z, tool: note, inputs: {word: main 3}}
finally:
  - {name: a, tool: note, inputs: {word: a}}
"""


class Held:
    """Two tools and their calls. The first call of `hold` does not return."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.warnings: list[tuple[str, str]] = []
        self.is_held = asyncio.Event()

    def graph(self, text: str, saver: Any, *, safe: bool = True) -> Any:
        server = FakeToolServer()

        @server.tool
        def note(word: str) -> dict[str, Any]:
            """Note a word."""
            self.calls.append(word)
            return {"word": word}

        @server.tool(read_only=safe)
        async def hold() -> dict[str, Any]:
            """Hold."""
            self.calls.append("b")
            if not self.is_held.is_set():
                self.is_held.set()
                await asyncio.Event().wait()
            return {}

        deps, setup = Dependencies(toolbox=server), RunSetup(on_event=self._hear)
        return compile_plan(fractale.load(text), deps, setup=setup).compile(checkpointer=saver)

    def _hear(self, event: fractale.Event) -> None:
        if event.kind == "warning":
            self.warnings.append((event.data["step"], event.data["message"]))

    async def cut_off(self, graph: Any) -> None:
        """Begin a run, and cancel it while `hold` is called."""
        running = asyncio.create_task(graph.ainvoke({}, THREAD))
        await asyncio.wait_for(self.is_held.wait(), 60)
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running

    def new(self) -> list[str]:
        """The calls since this was asked last."""
        found, self.calls[:] = list(self.calls), []
        return found


@asynccontextmanager
async def opened(kind: str, folder: Path) -> AsyncGenerator[Any]:
    if kind == "memory":
        yield InMemorySaver()
    else:
        async with AsyncSqliteSaver.from_conn_string(str(folder / "db")) as saver:
            yield saver


@pytest.fixture(params=["memory", "sqlite"])
async def saver(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[Any]:
    async with opened(request.param, tmp_path) as opened_one:
        yield opened_one


@pytest.mark.parametrize("end", ENDS)
async def test_those_that_were_cut_off_are_finished_once(saver, end):
    (plan, main), held = ENDS[end], Held()
    await held.cut_off(held.graph(plan, saver))
    assert held.new() == [*main, "a", "b"]
    for calls in (["b", "c"], [], []):  # `b` only reads, so its call is made again
        after = await held.graph(plan, saver).ainvoke(None, THREAD)
        assert (after["status"], held.new()) == (end, calls)


@pytest.mark.parametrize("end", ENDS)
async def test_those_that_have_run_do_not_run_again(saver, end):
    (plan, main), held = ENDS[end], Held()
    held.is_held.set()
    for calls in ([*main, "a", "b", "c"], [], []):
        given = {} if calls else None
        after = await held.graph(plan, saver).ainvoke(given, THREAD)
        assert (after["status"], held.new()) == (end, calls)
    await held.graph(plan, saver).ainvoke({}, THREAD)
    assert held.new() == [*main, "a", "b", "c"], "another run on this thread"


async def test_a_call_in_doubt_ends_them_with_a_warning_and_is_not_repeated(saver):
    held = Held()
    await held.cut_off(held.graph(LIMITED, saver, safe=False))
    held.new()
    for _ in range(2):
        held.warnings.clear()
        after = await held.graph(LIMITED, saver, safe=False).ainvoke(None, THREAD)
        assert (after["status"], held.new()) == ("limit", [])
        words = "its question cannot be asked when a limit has ended the plan"
        assert held.warnings == [("finally/b", words)]


async def test_a_plan_that_continues_has_another_end(saver):
    held = Held()
    await held.cut_off(held.graph(LIMITED, saver))
    held.new()
    more: Any = {"limits": {"steps": 9}}
    after = await held.graph(LIMITED, saver).ainvoke(None, THREAD, context=more)
    assert (after["status"], held.new()) == ("success", ["main 3", "a", "b", "c"])


async def test_an_end_after_more_work_inside_the_same_step_is_another_one(saver):
    held = Held()
    ends = [(2, ["main 1", "a"]), (2, []), (4, ["main 2", "a"]), (4, []), (9, ["main 3", "a"])]
    given: Any = {}
    for limit, calls in ends:
        context: Any = {"limits": {"steps": limit}}
        await held.graph(GROUP, saver).ainvoke(given, THREAD, context=context)
        assert held.new() == calls
        given = None


KILLED = """
import asyncio, os, signal, sys
import fractale
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

def note(word: str) -> str:
    "Note a word."
    with open("calls", "a") as file:
        print(word, file=file)
    return word

async def main(first):
    def hold() -> str:
        "Be killed the first time."
        note("b")
        if first:
            os.kill(os.getpid(), signal.SIGKILL)
        return "held"

    async with AsyncSqliteSaver.from_conn_string("db") as saver:
        graph = fractale.plan_graph("plan.yaml", tools=[note, hold], checkpointer=saver)
        given = {} if first else None
        after = await graph.ainvoke(given, {"configurable": {"thread_id": "t"}})
        note(after["status"])

for first in (True, False):  # two processes, of which each has all modules already
    child = os.fork()
    if child == 0:
        asyncio.run(main(first))
        sys.exit()
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_killed_process_leaves_them_to_the_next_one(tmp_path):
    (tmp_path / "plan.yaml").write_text(LIMITED)
    words = [sys.executable, "-c", KILLED]
    done = subprocess.run(words, cwd=tmp_path, check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["-9", "0"], done.stderr
    calls = (tmp_path / "calls").read_text().split("\n")
    assert calls == ["main 1", "main 2", "a", "b", "b", "c", "limit", ""]
