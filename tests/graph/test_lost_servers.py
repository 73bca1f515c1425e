"""Runs whose servers die under way: real ones, killed, and most of them started again.

What a run did is counted where it was done: by the servers, which write every call down.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

import forked
from fractale.mcp import McpToolbox, Timing
from fractale.models import Models, RetryPolicy
from fractale.plan.build import parse_plan
from fractale.policy import Policy
from fractale.runs import Runs
from fractale.settings import Settings
from fractale.testing import FakeToolServer, ModelServer, Reply, ScriptedModel
from servers.running import HttpServer, free_port, stdio

FILE = "counting_server.py"
FULL = os.environ.get("FRACTALE_FULL") == "1"
KINDS = ["stdio", "http", "sse", *(["http-json", "http-stateless"] if FULL else [])]
TWO = ["stdio", "http"]
PATIENT = Timing(first_delay=0.05, max_delay=0.2, attempts=500)
HASTY = Timing(first_delay=0.05, max_delay=0.2, attempts=2)
KEY = "k-1234567890"


class Lossy:
    """A server that a test kills and brings back; it writes its calls down in `folder`."""

    def __init__(self, kind: str, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder
        self.name = folder.name
        transport, _, how = kind.partition("-")
        words = [str(folder), how] if how else [str(folder)]
        self.http = None if kind == "stdio" else HttpServer(FILE, transport, *words)

    def settings(self):
        if self.http is not None:
            return self.http.settings(self.name)
        return stdio(self.name, FILE, args=("stdio", "0", str(self.folder)))

    def entry(self) -> dict[str, Any]:
        """The same for a settings file."""
        own = self.settings()
        if own.url:
            return {"url": own.url, "transport": own.transport}
        return {"command": own.command, "args": list(own.args)}

    def calls(self) -> list[dict[str, Any]]:
        path = self.folder / "calls.txt"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def count(self) -> Counter[str]:
        """How often each tool was called with each value."""
        return Counter(f"{call['tool']} {call['value']}" for call in self.calls())

    def hold(self, value: str) -> None:
        """Let the next call with the value stand still."""
        (self.folder / f"hold-{value}").touch()

    def release(self, value: str) -> None:
        (self.folder / f"held-{value}").unlink()

    async def held(self, value: str, run: asyncio.Task[Any] | None = None) -> None:
        path = self.folder / f"held-{value}"
        async with asyncio.timeout(60):
            while not path.exists():
                assert run is None or not run.done(), run
                await asyncio.sleep(0.01)

    async def die(self) -> None:
        """Kill it; its last call was made by the process that is there."""
        pid = self.calls()[-1]["pid"]
        os.kill(pid, signal.SIGKILL)
        if self.http is not None:
            await asyncio.to_thread(self.http.kill)
        async with asyncio.timeout(30):
            while is_there(pid):  # noqa: ASYNC110  # another process
                await asyncio.sleep(0.01)

    async def back(self) -> None:
        """Start it again; one that fractale starts is started by fractale."""
        if self.http is not None:
            await asyncio.to_thread(self.http.start)

    async def die_and_come_back(self) -> None:
        await self.die()
        await self.back()


def is_there(pid: int) -> bool:
    """Whether any of it is left: what is only waited for may still have its pipes open."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@contextmanager
def served(kind: str, folder: Path) -> Iterator[Lossy]:
    server = Lossy(kind, folder)
    if server.http is None:
        yield server
        return
    with server.http:
        yield server


@pytest.fixture(params=KINDS)
def lossy(request, tmp_path) -> Iterator[Lossy]:
    with served(request.param, tmp_path / "lossy") as server:
        yield server


@pytest.fixture
def calm(tmp_path) -> Iterator[Lossy]:
    """The other server of the run, which nothing happens to."""
    with served("stdio", tmp_path / "calm") as server:
        yield server


@pytest.fixture
def start(run_plan):
    """Begin a run on servers; gives its task."""

    async def run(plan: str, servers: tuple[Lossy, ...], timing: Timing, **options: Any):
        async with McpToolbox([server.settings() for server in servers], timing=timing) as box:
            return await run_plan(plan, tools=box, **options)

    def start(plan: str, *servers: Lossy, timing: Timing = PATIENT, **options: Any):
        return asyncio.create_task(run(plan, servers, timing, **options))

    return start


async def ended(run: asyncio.Task[Any]):
    async with asyncio.timeout(120):
        return await run


# -- between calls ---------------------------------------------------------------------------------

BETWEEN = """
name: p
steps:
  - {name: before, tool: lossy.charge, inputs: {value: one}}
  - {name: meanwhile, tool: calm.look, inputs: {value: two}}
  - {name: after, tool: lossy.charge, inputs: {value: three}}
  - {name: last, tool: calm.charge, inputs: {value: four}}
"""


async def test_a_run_goes_on_where_a_server_was_lost_between_calls(lossy, calm, start):
    calm.hold("two")
    run = start(BETWEEN, lossy, calm)
    await calm.held("two", run)
    await lossy.die_and_come_back()
    calm.release("two")
    seen = await ended(run)
    assert seen.path == [f"{name}:success" for name in ("before", "meanwhile", "after", "last")]
    assert lossy.count() == {"charge one": 1, "charge three": 1}
    assert len({call["pid"] for call in lossy.calls()}) == 2
    assert calm.count() == {"look two": 1, "charge four": 1}
    assert len({call["pid"] for call in calm.calls()}) == 1, "it was not started again"


async def test_a_server_that_needs_two_starts_to_come_back_is_waited_for(tmp_path, calm, start):
    lossy = Lossy("stdio", tmp_path / "lossy")
    calm.hold("two")
    run = start(BETWEEN, lossy, calm)
    await calm.held("two", run)
    (lossy.folder / "down").write_text("1")
    await lossy.die()
    calm.release("two")
    seen = await ended(run)
    assert seen.status == "success"
    assert lossy.count() == {"charge one": 1, "charge three": 1}


async def test_a_server_that_dies_again_when_asked_for_its_tools_is_started_again(
    tmp_path, calm, start
):
    lossy = Lossy("stdio", tmp_path / "lossy")
    calm.hold("two")
    run = start(BETWEEN, lossy, calm)
    await calm.held("two", run)
    (lossy.folder / "die-listing").touch()
    await lossy.die()
    calm.release("two")
    seen = await ended(run)
    assert seen.status == "success", seen.result.error
    assert not (lossy.folder / "die-listing").exists()
    assert lossy.count() == {"charge one": 1, "charge three": 1}


@pytest.mark.parametrize("kind", TWO)
async def test_a_call_made_before_the_loss_is_noticed_is_made_once(kind, tmp_path):
    with served(kind, tmp_path / "lossy") as lossy:
        async with McpToolbox([lossy.settings()]) as box:
            await box.call_tool("charge", {"value": "one"})
            pid = lossy.calls()[-1]["pid"]
            os.kill(pid, signal.SIGKILL)
            if lossy.http is not None:
                lossy.http.kill()
                lossy.http.start()
            while is_there(pid):
                time.sleep(0.01)  # noqa: ASYNC251  # the loop must not see it yet
            result = await box.call_tool("charge", {"value": "two"})
            assert result.structured["value"] == "two"
        assert lossy.count() == {"charge one": 1, "charge two": 1}


# -- during a call ---------------------------------------------------------------------------------

DURING = """
name: p
steps:
  - name: work
    tool: lossy.{tool}
    inputs: {{value: one}}
    retry: {{attempts: 3, delay: 0.05}}
  - {{name: after, tool: lossy.charge, inputs: {{value: two}}}}
"""


async def test_a_changing_call_that_is_lost_fails_and_is_not_sent_again(lossy, start):
    # A server that says nothing about a tool is taken to mean that it changes something.
    tool = "charge" if lossy.http is None else "change"
    lossy.hold("one")
    run = start(DURING.format(tool=tool), lossy)
    await lossy.held("one", run)
    await lossy.die_and_come_back()
    seen = await ended(run)
    assert seen.status == "failed"
    assert seen.path == ["work:failure"]
    assert seen.decided("work") == "error"
    assert "`lossy`" in seen.result.error
    assert f"the call of `{tool}` may have been made, or not" in seen.result.error
    assert lossy.count() == {f"{tool} one": 1}


async def test_a_call_that_does_no_harm_twice_is_sent_again(lossy, start):
    tool = "put" if lossy.http is None else "look"
    lossy.hold("one")
    run = start(DURING.format(tool=tool), lossy)
    await lossy.held("one", run)
    await lossy.die_and_come_back()
    seen = await ended(run)
    assert seen.path == ["work:success", "after:success"]
    assert lossy.count() == {f"{tool} one": 2, "charge two": 1}
    assert [warning["code"] for warning in seen.of("warning")] == ["retry"]


async def test_without_retry_no_call_is_sent_again(tmp_path, start):
    plan = "name: p\nsteps: [{name: work, tool: look, inputs: {value: one}}]\n"
    with served("http", tmp_path / "lossy") as lossy:
        lossy.hold("one")
        run = start(plan, lossy)
        await lossy.held("one", run)
        await lossy.die_and_come_back()
        seen = await ended(run)
    assert seen.path == ["work:failure"]
    assert lossy.count() == {"look one": 1}


async def test_a_failure_transition_goes_on_with_the_server_that_came_back(tmp_path, start):
    plan = """
    name: p
    steps:
      - name: work
        tool: lossy.charge
        inputs: {value: one}
        transitions: {success: success, failure: see}
      - name: see
        tool: lossy.look
        inputs: {value: "{{ previous.error }}"}
        retry: {attempts: 10, delay: 250ms}  # it can meet the connection that broke
    """
    with served("http", tmp_path / "lossy") as lossy:
        lossy.hold("one")
        run = start(plan, lossy)
        await lossy.held("one", run)
        await lossy.die_and_come_back()
        seen = await ended(run)
    assert seen.path == ["work:failure", "see:success"]
    last = lossy.calls()[-1]
    assert "may have been made" in last["value"], "the next step is told"
    assert lossy.count()["charge one"] == 1


@pytest.mark.parametrize("kind", TWO)
async def test_steps_on_another_server_at_the_same_time_are_not_disturbed(
    kind, tmp_path, calm, start
):
    plan = """
    name: p
    steps:
      - name: both
        keep_going: true
        parallel:
          - {name: lost, tool: lossy.charge, inputs: {value: one}}
          - {name: kept, tool: calm.charge, inputs: {value: two}}
      - {name: after, tool: calm.look, inputs: {value: "{{ steps.both.outputs.kept.value }}"}}
    """
    with served(kind, tmp_path / "lossy") as lossy:
        lossy.hold("one")
        calm.hold("two")
        run = start(plan, lossy, calm)
        await asyncio.gather(lossy.held("one", run), calm.held("two", run))
        await lossy.die()
        calm.release("two")
        seen = await ended(run)
    outcomes = {step["name"]: step["outcome"] for step in seen.result.steps}
    assert outcomes["both/lost"] == "failure"
    assert outcomes["both/kept"] == outcomes["after"] == "success"
    assert lossy.count() == {"charge one": 1}
    assert calm.count() == {"charge two": 1, "look two": 1}
    assert len({call["pid"] for call in calm.calls()}) == 1


MANY = """
name: p
steps:
  - name: many
    tool: lossy.{tool}
    foreach: [a, b, c, d]
    max_parallel: 2
    keep_going: true
    retry: {{attempts: 3, delay: 0.05}}
    inputs: {{value: "{{{{ item }}}}"}}
outputs: {{items: "{{{{ steps.many.outputs }}}}"}}
"""


async def lose_two_items(lossy: Lossy, start: Any, tool: str) -> dict[str, str]:
    """The items' errors; the first two are under way when the server is lost."""
    lossy.hold("a")
    lossy.hold("b")
    run = start(MANY.format(tool=tool), lossy)
    await asyncio.gather(lossy.held("a", run), lossy.held("b", run))
    await lossy.die_and_come_back()
    items = (await ended(run)).of("item_finished")
    return {"abcd"[item["index"]]: item["error"] or "" for item in items}


@pytest.mark.parametrize("kind", TWO)
async def test_no_item_of_a_foreach_is_charged_twice(kind, tmp_path, start):
    with served(kind, tmp_path / "lossy") as lossy:
        errors = await lose_two_items(lossy, start, "charge")
        count = lossy.count()
    assert errors["a"]
    assert errors["b"]
    for item, error in errors.items():
        # The others may find a server that is just dying: then nobody knows of them, either.
        assert "may have been made" in error if error else count[f"charge {item}"] == 1
        assert count[f"charge {item}"] <= 1


async def test_items_that_do_no_harm_twice_are_sent_again(tmp_path, start):
    with served("http", tmp_path / "lossy") as lossy:
        errors = await lose_two_items(lossy, start, "put")
        count = lossy.count()
    assert not any(errors.values()), errors
    assert (count["put a"], count["put b"]) == (2, 2)
    assert count.keys() == {f"put {item}" for item in "abcd"}


@pytest.mark.parametrize("kind", TWO)
async def test_an_agent_is_told_that_its_call_may_have_been_made(kind, tmp_path, start):
    plan = """
    name: p
    steps:
      - name: work
        instruction: Charge one.
        tools: [charge]
        retry: {attempts: 3, delay: 0.05}
    """
    model = ScriptedModel([Reply(tool_calls=[("charge", {"value": "one"})]), "It is not known."])
    with served(kind, tmp_path / "lossy") as lossy:
        lossy.hold("one")
        run = start(plan, lossy, model=model, yes=True)
        await lossy.held("one", run)
        await lossy.die_and_come_back()
        await ended(run)
    told = model.requests[1][-1]
    assert told.status == "error"
    assert "may have been made" in told.text
    assert lossy.count() == {"charge one": 1}


class Door:
    """What clients of a server go through; closed, it lets none in, but streams go on."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._brief: set[asyncio.StreamWriter] = set()
        self.port = free_port()

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._pass, "127.0.0.1", self.port)

    def close(self) -> None:
        self._server.close()
        for writer in self._brief:
            writer.close()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, on = await asyncio.open_connection("127.0.0.1", self._port)
        first = await reader.read(65_536)
        if not first.startswith(b"GET"):
            self._brief |= {writer, on}
        on.write(first)
        await asyncio.gather(_copy(reader, on), _copy(there, writer))


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(65_536):
            writer.write(data)
    writer.close()


@pytest.mark.parametrize("kind", ["http", "sse"])
async def test_a_call_that_finds_the_door_closed_is_not_the_end_of_those_inside(kind, tmp_path):
    # A server that stops takes nothing new while it still answers what it began.
    with served(kind, tmp_path / "lossy") as lossy:
        door = Door(lossy.http.port)
        await door.open()
        own = lossy.settings()
        url = own.url.replace(str(lossy.http.port), str(door.port))
        lossy.hold("one")
        async with McpToolbox([replace(own, url=url)]) as box:
            inside = asyncio.create_task(box.call_tool("charge", {"value": "one"}))
            await lossy.held("one", inside)
            if kind == "http":  # its answer comes on the connection that is closed
                door._brief.clear()
            door.close()
            outside = asyncio.create_task(box.call_tool("charge", {"value": "two"}))
            await until_refused(box)
            assert not inside.done(), inside
            await door.open()
            assert (await outside).structured["value"] == "two"
            lossy.release("one")
            assert (await inside).structured["value"] == "one"
        assert lossy.count() == {"charge one": 1, "charge two": 1}


async def until_refused(box: McpToolbox) -> None:
    async with asyncio.timeout(30):
        while (await box.servers())[0].connected:  # noqa: ASYNC110  # there is no event for it
            await asyncio.sleep(0.01)


# -- for good --------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", ["", "timeout: 1s"])
@pytest.mark.parametrize("kind", KINDS if FULL else TWO)
async def test_a_server_that_stays_away_fails_the_step_and_says_which(
    kind, tmp_path, calm, start, limit
):
    plan = f"""
    name: p
    steps:
      - {{name: before, tool: lossy.charge, inputs: {{value: one}}}}
      - {{name: meanwhile, tool: calm.look, inputs: {{value: two}}}}
      - name: after
        tool: lossy.charge
        inputs: {{value: three}}
        {limit}
        transitions: {{success: success, failure: last}}
      - {{name: last, tool: calm.charge, inputs: {{value: four}}}}
    """
    calm.hold("two")
    with served(kind, tmp_path / "lossy") as lossy:
        run = start(plan, lossy, calm, timing=PATIENT if limit else HASTY)
        await calm.held("two", run)
        (lossy.folder / "down").touch()
        await lossy.die()
        calm.release("two")
        seen = await ended(run)
    assert seen.path == ["before:success", "meanwhile:success", "after:failure", "last:success"]
    error = seen.result.steps[2]["error"]
    assert "server `lossy`" in error
    assert "may have been made" not in error, f"it was never sent: {error}"
    if limit:
        assert "timeout of 1 s" in error
    elif lossy.http is None:
        assert "the node is down" in error
    else:
        assert f"cannot be reached at {lossy.http.url}" in error
    assert lossy.count() == {"charge one": 1}


# -- the command line ------------------------------------------------------------------------------

WHOLE = """
name: p
servers: [lossy, calm]
steps:
  - {name: before, tool: lossy.charge, inputs: {value: one}}
  - {name: meanwhile, tool: calm.look, inputs: {value: two}}
  - {name: again, tool: lossy.put, inputs: {value: three}, retry: {attempts: 3, delay: 0.05}}
  - name: charge
    tool: lossy.charge
    inputs: {value: four}
    retry: {attempts: 3, delay: 0.05}
    transitions: {failure: last}
  - {name: last, tool: calm.charge, inputs: {value: five}}
"""


@pytest.mark.parametrize("kind", TWO)
async def test_fractale_run_survives_three_losses_and_sends_no_change_twice(kind, tmp_path, calm):
    with served(kind, tmp_path / "lossy") as lossy:
        servers = {"lossy": lossy.entry(), "calm": calm.entry()}
        write_own_settings(tmp_path, {"servers": servers})
        (tmp_path / "p.yaml").write_text(WHOLE)
        calm.hold("two")
        lossy.hold("three")
        lossy.hold("four")
        process = fractale_run(tmp_path)
        await calm.held("two")
        await lossy.die_and_come_back()
        calm.release("two")
        await lossy.held("three")
        await lossy.die_and_come_back()
        await lossy.held("four")
        await lossy.die_and_come_back()
        out, err = await asyncio.to_thread(process.communicate, timeout=60)
    assert process.returncode == 0, out + err
    assert "Traceback" not in err
    steps = json.loads(out.splitlines()[-1])["steps"]
    assert [(step["name"], step["outcome"]) for step in steps] == [
        ("before", "success"),
        ("meanwhile", "success"),
        ("again", "success"),
        ("charge", "failure"),
        ("last", "success"),
    ]
    assert "may have been made" in steps[3]["error"]
    assert lossy.count() == {"charge one": 1, "put three": 2, "charge four": 1}
    assert calm.count() == {"look two": 1, "charge five": 1}


def write_own_settings(home: Path, settings: dict) -> None:
    """The person's settings: a project's servers are confined, and may not write what these do."""
    (home / ".config" / "fractale").mkdir(parents=True)
    (home / ".config" / "fractale" / "config.yaml").write_text(json.dumps(settings))


def fractale_run(folder: Path, *words: str, **env: str) -> forked.Process:
    names = ("PATH", "LANG", "TMPDIR")
    kept = {k: v for k, v in os.environ.items() if k in names or k.startswith("COVERAGE_")}
    return forked.start(
        ["run", "p.yaml", "--json", *words], cwd=folder, env={**kept, "HOME": str(folder), **env}
    )


# -- the model's server ----------------------------------------------------------------------------

ASKING = """
name: p
steps:
  - {name: greet, prompt: greeting}
  - {name: keep, tool: charge, inputs: {value: "{{ steps.greet.outputs.content }}"}}
"""
WORKING = """
name: p
steps:
  - name: work
    instruction: Charge one.
    tools: [charge]
    retry: {attempts: 2, delay: 0.05}
"""
CHARGING = Reply(tool_calls=[("charge", {"value": "one"})])


@pytest.fixture
def tools() -> FakeToolServer:
    return FakeToolServer("calm").answer("charge", {}).prompt("greeting", "Greet the person.")


def charged(tools: FakeToolServer) -> list[Any]:
    return [call.arguments["value"] for call in tools.calls]


@pytest.fixture
def run_on(tmp_path, tools):
    """Run a plan on a real model's server; only the waiting between tries is not real."""

    async def run(plan: str, script: list[Reply | str]) -> Asked:
        waits: list[float] = []

        async def wait(seconds: float) -> None:
            waits.append(seconds)

        with ModelServer(script) as server:
            settings = Settings(
                model="openai:scripted",
                openai_api_key=KEY,
                openai_base_url=server.openai_url,
                state_dir=tmp_path / ".fractale",
            )
            models = Models(settings, retry=RetryPolicy(sleep=wait))
            runs = Runs(settings, tools, models=models, policy=Policy(yes=True))
            result = await runs.start(parse_plan(plan))
            return Asked(result, waits, len(server.requests))

    return run


@dataclass(frozen=True)
class Asked:
    """A run's result, the waits between its tries of the model, and how many those were."""

    result: Any
    waits: list[float]
    requests: int


async def test_a_run_waits_for_a_model_that_is_busy_and_goes_on(run_on, tools):
    faults = [Reply(status=429, text="slow down", retry_after=7), Reply(status=503, text="busy")]
    run = await run_on(ASKING, [*faults, "Good morning."])
    assert run.result.ok, run.result.error
    assert [step["decided_by"] for step in run.result.steps] == ["default", "default"]
    assert run.requests == 3
    assert len(run.waits) == 2
    assert run.waits[0] >= 7, "the server said how long"
    assert charged(tools) == ["Good morning."]


async def test_fractale_run_waits_for_a_model_that_is_busy(tmp_path, calm):
    faults = [Reply(status=429, text="slow down", retry_after=1), Reply(status=503, text="busy")]
    with ModelServer([*faults, "Good morning."]) as server:
        settings = {"servers": {"calm": calm.entry()}, "openai_base_url": server.openai_url}
        write_own_settings(tmp_path, settings)
        (tmp_path / "p.yaml").write_text(ASKING)
        process = fractale_run(tmp_path, "--model", "openai:scripted", OPENAI_API_KEY=KEY)
        out, err = await asyncio.to_thread(process.communicate, timeout=60)
    assert process.returncode == 0, out + err
    assert len(server.requests) == 3
    assert calm.count() == {"charge Good morning.": 1}


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (Reply(text="Good morning to all of you here.", truncate=True), "broke off"),
        (Reply(text="Good morning to all of you here.", malformed=True), "not an answer"),
        (Reply(text="Good morning", finish="length"), "cut off at its length limit"),
        (Reply(empty=True), "is empty"),
        (Reply(status=503, text="overloaded"), "HTTP 503"),
    ],
    ids=["truncated", "malformed", "too long", "empty", "503"],
)
async def test_a_model_that_stays_broken_fails_the_step_with_its_cause(run_on, tools, fault, says):
    run = await run_on(ASKING, [fault] * 4)
    assert run.result.status == "failed"
    (step,) = run.result.steps
    assert (step["name"], step["outcome"], step["decided_by"]) == ("greet", "failure", "error")
    assert says in step["error"]
    assert charged(tools) == [], "the step after it was not entered"


async def test_a_broken_answer_between_an_agents_turns_repeats_no_call(run_on, tools):
    # The model breaks for good after its first call; the step's `retry` goes on from there.
    broken = Reply(text="I have charged it all.", truncate=True)
    run = await run_on(WORKING, [CHARGING, *[broken] * 4, "Charged."])
    assert run.result.ok, run.result.error
    assert charged(tools) == ["one"]


async def test_an_agent_whose_model_stays_broken_fails(run_on, tools):
    broken = Reply(text="I have charged it all.", malformed=True)
    run = await run_on(WORKING, [CHARGING, *[broken] * 8])
    (step,) = run.result.steps
    assert (step["outcome"], step["decided_by"]) == ("failure", "error")
    assert charged(tools) == ["one"]
