"""What a server asks in the middle of a call reaches whoever made the call, and their answer it."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from typing import Any

import pytest
from fastmcp import Context, FastMCP

from fractale.errors import ToolError, TransportError
from fractale.mcp import EmbeddedServer, McpToolbox
from fractale.plan.build import load_plan
from fractale.questions import Answers
from fractale.runs import RunOptions, Runs
from fractale.testing import FakeToolServer
from fractale.toolbox import Elicitation
from servers.asking_server import server as asking_server
from servers.running import HttpServer, stdio

HERE: ContextVar[str] = ContextVar("here", default="nowhere")


@pytest.fixture(scope="module")
def over_http():
    with HttpServer("asking_server.py") as server:
        yield server


@pytest.fixture(params=["stdio", "http", "embedded"])
async def box(request, over_http):
    """The asking server, reached in each of the ways that there are."""
    if request.param == "stdio":
        spec: Any = stdio("asking", "asking_server.py")
    elif request.param == "http":
        spec = over_http.settings("asking")
    else:
        spec = EmbeddedServer(name="asking", server=asking_server)
    async with McpToolbox([spec]) as box:
        yield box


def always(answer: dict[str, Any], asked: list[Elicitation] | None = None):
    """A person who gives the same answer to everything."""

    async def on_elicit(question: Elicitation) -> dict[str, Any]:
        if asked is not None:
            asked.append(question)
        return answer

    return on_elicit


PLACE = {"action": "accept", "content": {"partition": "debug", "nodes": 2}}


async def test_an_answer_of_the_schema_reaches_the_tool(box):
    asked: list[Elicitation] = []
    result = await box.call_tool("submit", {}, on_elicit=always(PLACE, asked))
    assert result.structured == {"action": "accept", "partition": "debug", "nodes": 2}
    (question,) = asked
    assert (question.server, question.message) == ("asking", "Where should the job run?")
    assert question.schema["properties"]["partition"]["enum"] == ["debug", "batch"]
    assert question.schema["required"] == ["partition", "nodes"]


@pytest.mark.parametrize("action", ["decline", "cancel"])
async def test_a_person_need_not_answer(box, action):
    result = await box.call_tool("submit", {}, on_elicit=always({"action": action}))
    assert result.structured == {"action": action}


async def test_without_a_handler_the_server_is_told_no(box):
    assert (await box.call_tool("submit", {})).structured == {"action": "decline"}


async def test_several_questions_of_one_call_come_one_after_the_other(box):
    answers = iter(["a", "b"])

    async def on_elicit(question: Elicitation) -> dict[str, Any]:
        return {"action": "accept", "content": {"value": f"{question.message}{next(answers)}"}}

    result = await box.call_tool("twice", {}, on_elicit=on_elicit)
    assert result.structured == {"first": "First?a", "second": "Second?b"}


class Unanswered(Exception):
    """Not one of fractale's: the handler's own."""


async def test_what_the_handler_raises_ends_the_call_and_comes_out_of_it(box, tmp_path):
    async def on_elicit(question: Elicitation) -> dict[str, Any]:
        raise Unanswered(question.message)

    with pytest.raises(Unanswered, match="Go on"):
        await box.call_tool("marked", {"folder": str(tmp_path)}, on_elicit=on_elicit)
    await until((tmp_path / "ended").exists)
    assert not (tmp_path / "went-on").exists()
    assert (await box.call_tool("submit", {}, on_elicit=always(PLACE))).structured


async def test_an_answer_that_is_none_ends_the_call_with_an_error(box):
    with pytest.raises(ToolError, match="answer"):
        await box.call_tool("submit", {}, on_elicit=always({"action": "perhaps"}))


async def test_other_calls_go_on_while_a_person_thinks(box):
    thought = asyncio.Event()

    async def on_elicit(question: Elicitation) -> dict[str, Any]:
        await thought.wait()
        return PLACE

    waiting = asyncio.create_task(box.call_tool("submit", {}, on_elicit=on_elicit))
    assert (await box.call_tool("rest", {"seconds": 0.01})).text == "rested"
    assert not waiting.done()
    thought.set()
    assert (await waiting).structured["nodes"] == 2


async def test_of_two_calls_under_way_the_latest_is_asked(box):
    asked: list[str] = []
    there = asyncio.Event()

    async def slow(question: Elicitation) -> dict[str, Any]:
        there.set()
        asked.append("rest")
        return PLACE

    resting = asyncio.create_task(box.call_tool("rest", {"seconds": 0.5}, on_elicit=slow))
    await asyncio.sleep(0.1)
    result = await box.call_tool("submit", {}, on_elicit=always(PLACE))
    assert result.structured["nodes"] == 2
    assert asked == []
    await resting


async def test_a_call_that_is_cancelled_ends_its_question(box):
    asked, ended = asyncio.Event(), asyncio.Event()

    async def on_elicit(question: Elicitation) -> dict[str, Any]:
        asked.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        return PLACE

    call = asyncio.create_task(box.call_tool("submit", {}, on_elicit=on_elicit))
    await asyncio.wait_for(asked.wait(), 20)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await asyncio.wait_for(ended.wait(), 20)
    assert (await box.call_tool("rest", {"seconds": 0})).text == "rested"


async def test_the_handler_runs_where_the_call_was_made(box):
    HERE.set("step one")
    seen: list[str] = []

    async def on_elicit(question: Elicitation) -> dict[str, Any]:
        seen.append(HERE.get())
        return PLACE

    await box.call_tool("submit", {}, on_elicit=on_elicit)
    assert seen == ["step one"]


async def test_a_persons_time_is_not_the_servers(over_http):
    async def on_elicit(question: Elicitation) -> dict[str, Any]:
        await asyncio.sleep(1.0)
        return PLACE

    async with McpToolbox([over_http.settings("asking", timeout=0.4)]) as box:
        assert (await box.call_tool("submit", {}, on_elicit=on_elicit)).structured["nodes"] == 2
        with pytest.raises(TransportError, match="did not answer within"):
            await box.call_tool("rest", {"seconds": 30}, on_elicit=on_elicit)


async def until(holds, seconds: float = 20) -> None:
    async with asyncio.timeout(seconds):
        while not holds():  # noqa: ASYNC110  # a file that another process makes
            await asyncio.sleep(0.01)


# -- the fake server of the tests of plans --------------------------------------------------------


@pytest.fixture
def fake() -> FakeToolServer:
    server = FakeToolServer()

    @server.tool(read_only=True)
    async def release(job: int) -> dict:
        try:
            answer = await server.elicit(f"Release job {job}?")
        except Exception:  # noqa: BLE001  # as a careless tool does
            answer = {"action": "kept alive"}
        return {"answer": dict(answer)}

    return server


async def test_a_fake_tool_asks_too(fake):
    answer = {"action": "accept", "content": {"value": "yes"}}
    asked: list[Elicitation] = []
    result = await fake.call_tool("release", {"job": 7}, on_elicit=always(answer, asked))
    assert result.structured == {"answer": answer}
    assert asked[0].message == "Release job 7?"
    assert (await fake.call_tool("release", {"job": 7})).structured == {
        "answer": {"action": "decline"}
    }


async def test_a_fake_call_is_ended_by_its_handler(fake):
    async def on_elicit(question: Elicitation) -> dict[str, Any]:
        raise Unanswered(question.message)

    with pytest.raises(Unanswered):
        await fake.call_tool("release", {"job": 7}, on_elicit=on_elicit)


# -- in a run -------------------------------------------------------------------------------------

PLAN = "name: p\nsteps: [{name: s, tool: release, inputs: {job: 7}}]\n"


async def test_a_run_ends_waiting_and_goes_on_with_the_answer(settings, fake, tmp_path):
    path = tmp_path / "plan.yaml"
    path.write_text(PLAN)
    first = await Runs(settings, fake).start(load_plan(path))
    assert first.status == "waiting"
    (question,) = first.waiting
    assert (question["kind"], question["message"]) == ("elicitation", "Release job 7?")
    answer = {"action": "accept", "content": {"value": "yes"}}
    options = RunOptions(replies=Answers({"s": answer}))
    then = await Runs(settings, fake).resume(first.run, options)
    assert then.status == "success"
    assert [call.name for call in fake.calls] == ["release", "release"]


async def test_an_answer_given_beforehand_is_taken_without_waiting(run_plan, fake):
    answer = {"action": "accept", "content": {"value": "yes"}}
    ran = await run_plan(PLAN, tools=fake, answers={"s": answer})
    assert ran.status == "success"
    assert len(fake.calls) == 1
    assert ran.of("step_finished")[0]["outputs"] == {"answer": answer}


@pytest.mark.parametrize("kind", ["http", "embedded"])
async def test_a_question_that_waits_or_is_given_up_raises_no_alarm(over_http, kind, caplog):
    # The answer to a question whose call was cancelled is one that the server cannot place.
    logs: list[tuple[str, str, str]] = []
    spec = over_http.settings("asking")
    if kind == "embedded":
        spec = EmbeddedServer(name="asking", server=asking_server)
    async with McpToolbox([spec], on_log=lambda *log: logs.append(log)) as box:

        async def nobody(_question: Elicitation) -> dict[str, Any]:
            raise ToolError("nobody is there")

        with pytest.raises(ToolError, match="nobody is there"):
            await box.call_tool("submit", {}, on_elicit=nobody)
        late = asyncio.create_task(box.call_tool("submit", {}, on_elicit=always_late))
        await asyncio.sleep(0.3)
        late.cancel()
        await asyncio.gather(late, return_exceptions=True)
        result = await box.call_tool("submit", {}, on_elicit=always(PLACE))
    assert result.structured["nodes"] == 2
    assert [log for log in logs if log[1] in ("warning", "error")] == []
    assert [r.getMessage() for r in caplog.records if r.levelname in ("WARNING", "ERROR")] == []


async def always_late(_question: Elicitation) -> dict[str, Any]:
    await asyncio.sleep(600)
    return PLACE


async def test_a_page_that_a_server_wants_opened_is_declined_and_told():
    server = FastMCP("pages")

    @server.tool
    async def sign_in(context: Context) -> str:
        answer = await context.session.elicit_url("Sign in", "https://site.example/in", "1")
        return answer.action

    logs: list[tuple[str, str, str]] = []
    spec = EmbeddedServer(name="pages", server=server)
    async with McpToolbox([spec], on_log=lambda *log: logs.append(log)) as box:
        assert (await box.call_tool("sign_in", {})).text == "decline"
    (told,) = [message for _, level, message in logs if level == "warning"]
    assert (
        told == "asked to open https://site.example/in, which fractale declined: open it yourself"
    )
