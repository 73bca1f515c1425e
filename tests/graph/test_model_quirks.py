"""What real servers of models do beside OpenAI's protocol, for each kind of step that asks one.

The server is `fractale.testing`'s, over HTTP, and streams. Whatever it does, the answer is the
answer, or the step fails with its cause; a tool is only called with the arguments that were meant.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
from langchain_core.messages import HumanMessage
from langchain_core.tools import tool

from fractale.agents.catalog import Catalog
from fractale.errors import ModelError, ModelUnavailable
from fractale.events import Event
from fractale.models import Models, RetryPolicy, Usage
from fractale.plan.build import parse_plan
from fractale.policy import Policy
from fractale.runs import RunOptions, Runs
from fractale.settings import Settings
from fractale.testing import QUIRKS, FakeToolServer, ModelServer, Reply, ScriptedModel
from fractale.testing.model_server import ModelRequest

PLAN = "name: p\nsteps: [{name: s, STEP}]\noutputs: {all: '{{ steps.s.outputs }}'}\n"
WHERE = "/scratch/anna/run1/tmp"
ANSWER = 'There are 2 files; the image runs CMD ["/bin/busybox"].'


async def no_wait(_seconds: float) -> None:
    """Ask again at once."""


def settings_for(server: ModelServer, settings: Settings | None = None) -> Settings:
    return replace(
        settings or Settings(),
        provider="openai",
        model="openai:scripted",
        openai_base_url=server.openai_url,
        openai_api_key="k-1234567890",
    )


def models_for(server: ModelServer) -> Models:
    return Models(settings_for(server), retry=RetryPolicy(sleep=no_wait))


@dataclass
class Ran:
    """What came of one step."""

    result: Any
    calls: list[Any]
    events: list[Event]
    requests: int

    @property
    def outputs(self) -> Any:
        return self.result.outputs.get("all")

    @property
    def shown(self) -> str:
        """The text that was shown while it came."""
        return "".join(event.data["text"] for event in self.events if event.kind == "model_text")


@pytest.fixture
def run(settings: Settings) -> Callable[..., Any]:
    """Run a plan of one step against a server."""

    async def start(step: str, server: ModelServer) -> Ran:
        tools = FakeToolServer()

        @tools.tool(annotations={"readOnlyHint": True})
        def look(where: str, deep: bool = False) -> dict:
            """Look around."""
            return {"files": ["a", "b"]}

        tools.prompt("expert", "You are an expert.")
        given = settings_for(server, settings)
        events: list[Event] = []
        runs = Runs(
            given,
            tools,
            models=models_for(server),
            policy=Policy(settings=given.policy, yes=True),
            agents=Catalog(()),
        )
        plan = PLAN.replace("STEP", step)
        options = RunOptions(listeners=[events.append], yes=True)
        result = await runs.start(parse_plan(plan), {}, options)
        calls = [(call.name, dict(call.arguments)) for call in tools.calls]
        return Ran(result, calls, events, len(server.requests))

    return start


# -- the kinds of step -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Kind:
    """A step that asks a model.

    Args:
        step: The step in YAML, without its name.
        model: What a model that does it right says to a request.
        outputs: What is right.
        calls: The tool calls that are right.
        calls_tools: Whether its model calls tools.
    """

    step: str
    model: Callable[[ModelRequest], Reply]
    outputs: Any
    calls: Sequence[Any] = ()
    calls_tools: bool = False
    status: str = "success"


def last_role(request: ModelRequest) -> str:
    return str(request.body["messages"][-1]["role"])


def with_tools(request: ModelRequest) -> Reply:
    if last_role(request) == "tool":
        return Reply(text=ANSWER)
    return Reply(tool_calls=[("look", {"where": WHERE})])


def drafting(request: ModelRequest) -> Reply:
    if "Write the steps." in str(request.body):
        look = {"name": "l", "tool": "look", "inputs": {"where": WHERE}}
        return Reply(data={"steps": [look]})
    if last_role(request) == "tool":
        return Reply(text="Two files.")
    return Reply(tool_calls=[("look", {"where": "/"})])


FILES = {"files": ["a", "b"]}
KINDS = {
    "agent": Kind(
        step="type: agent, instruction: Look, tools: [look]",
        model=with_tools,
        outputs={"content": ANSWER},
        calls=[("look", {"where": WHERE})],
        calls_tools=True,
    ),
    "agent with a schema": Kind(
        step="type: agent, instruction: Look, tools: [look], output_schema: "
        "{type: object, properties: {nodes: {type: integer}}, required: [nodes]}",
        model=lambda request: (
            Reply(data={"nodes": 4}) if last_role(request) == "tool" else with_tools(request)
        ),
        outputs={"nodes": 4},
        calls=[("look", {"where": WHERE})],
        calls_tools=True,
    ),
    "agent without tools": Kind(
        step="type: agent, instruction: Say it, allow_tools: false",
        model=lambda _request: Reply(text=ANSWER),
        outputs={"content": ANSWER},
    ),
    "prompt": Kind(
        step="prompt: expert, allow_tools: false",
        model=lambda _request: Reply(text=ANSWER),
        outputs={"content": ANSWER},
    ),
    "schema": Kind(
        step="prompt: expert, allow_tools: false, output_schema: "
        "{type: object, properties: {nodes: {type: integer}}, required: [nodes]}",
        model=lambda _request: Reply(data={"nodes": 4}),
        outputs={"nodes": 4},
    ),
    "judge": Kind(
        step=f"tool: look, inputs: {{where: {WHERE}}}, judge: true",
        model=lambda _request: Reply(data={"reason": "it is not there", "success": False}),
        outputs=None,
        calls=[("look", {"where": WHERE})],
        status="failed",
    ),
    "plan": Kind(
        step="type: plan, instruction: Count the files",
        model=drafting,
        outputs=FILES,
        calls=[("look", {"where": "/"}), ("look", {"where": WHERE})],
        calls_tools=True,
    ),
}

THOUGHTS = [name for name in QUIRKS if name.startswith("think-") or name == "think"]
THOUGHTS.remove("think-only")
OF_CALLS = ["null-id", "empty-id", "pieces", "no-index", "name-repeated", "object-arguments"]
OF_ANSWERS = ["content-parts", "null-delta", "usage-in-each", "one-body"]
HARMLESS = [*THOUGHTS, *OF_CALLS, *OF_ANSWERS]
CALLS_AS_TEXT = [name for name in QUIRKS if name.startswith("call-as-")]
BROKEN_CALLS = ["cut-arguments", *CALLS_AS_TEXT]
NO_ANSWER = {"think-only": "only thoughts", "refusal": "refuses to answer"}


WITH_TOOLS = [name for name, kind in KINDS.items() if kind.calls_tools]


def is_right(ran: Ran, kind: Kind) -> None:
    assert ran.result.status == kind.status, ran.result.error
    assert ran.calls == list(kind.calls)
    if kind.outputs is not None:
        assert ran.outputs == kind.outputs
    else:
        assert ran.result.steps[-1]["decided_by"] == "judge"
        assert "it is not there" in ran.result.error


@pytest.mark.parametrize(
    ("quirk", "name"),
    [
        *((quirk, name) for quirk in (*THOUGHTS, *OF_ANSWERS) for name in KINDS),
        *((quirk, name) for quirk in OF_CALLS for name in WITH_TOOLS),
    ],
)
async def test_what_a_server_does_beside_the_protocol_changes_no_answer(run, quirk, name):
    kind = KINDS[name]
    with ModelServer(kind.model, quirks=[quirk]) as server:
        ran = await run(kind.step, server)
    is_right(ran, kind)
    if quirk != "think-unopened":  # these can't be told from an answer before their end
        assert "99" not in ran.shown


@pytest.mark.parametrize("name", [*WITH_TOOLS, "prompt"])
@pytest.mark.parametrize("quirk", BROKEN_CALLS)
async def test_a_call_that_is_broken_or_only_text_is_never_made(run, quirk, name):
    kind = KINDS[name]
    with ModelServer(kind.model, quirks=[quirk]) as server:
        ran = await run(kind.step, server)
    if not kind.calls_tools:
        is_right(ran, kind)
        return
    assert ran.calls == []
    assert ran.result.status == "failed"
    cause = "cannot be read" if quirk == "cut-arguments" else "wrote a call of `look` as text"
    assert cause in ran.result.error


@pytest.mark.parametrize("name", WITH_TOOLS)
@pytest.mark.parametrize("quirk", BROKEN_CALLS)
async def test_a_broken_turn_is_asked_for_again(run, quirk, name):
    kind = KINDS[name]
    seen: list[Any] = []

    def once_broken(request: ModelRequest) -> Reply:
        seen.append(request)
        reply = kind.model(request)
        return replace(reply, quirks=[quirk]) if len(seen) == 1 else reply

    with ModelServer(once_broken) as server:
        ran = await run(kind.step, server)
    is_right(ran, kind)
    if quirk in CALLS_AS_TEXT:
        assert "nothing was called" in str(seen[1].body["messages"][-1])


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("quirk", NO_ANSWER)
async def test_thoughts_alone_and_refusals_are_no_answer(run, quirk, name):
    kind = KINDS[name]
    with ModelServer(kind.model, quirks=[quirk]) as server:
        ran = await run(kind.step, server)
    assert ran.result.status == "failed"
    if not (quirk == "refusal" and kind.calls_tools):  # a turn that calls a tool refuses nothing
        assert NO_ANSWER[quirk] in ran.result.error
        assert ran.calls == [call for call in kind.calls if name == "judge"]


@pytest.mark.parametrize("name", ["agent", "schema"])
@pytest.mark.parametrize("body", ["error-text", "error-list", "error-detail", "error-details"])
async def test_the_servers_words_are_in_the_error_in_whatever_form(run, body, name):
    fault = Reply(status=404, text="model 'm' not found, try pulling it first", quirks=[body])
    with ModelServer(lambda _request: fault) as server:
        ran = await run(KINDS[name].step, server)
    assert ran.result.status == "failed"
    assert "model 'm' not found, try pulling it first" in ran.result.error


@pytest.mark.parametrize("name", KINDS)
async def test_a_character_that_is_cut_in_two_is_replaced(run, name):
    kind = KINDS[name]
    with ModelServer(kind.model, quirks=["cut-character"]) as server:
        ran = await run(kind.step, server)
    assert ran.result.status == kind.status, ran.result.error
    if kind.outputs == {"content": ANSWER}:
        assert ran.outputs == {"content": f"{ANSWER}\ufffd"}


# -- one turn, whole and streamed ------------------------------------------------------------------


@tool
def look(where: str) -> str:
    """Look around."""
    raise AssertionError("nothing calls it here")


QUESTION = [HumanMessage("What is there?")]
CALL = Reply(tool_calls=[("look", {"where": WHERE})], input_tokens=12, output_tokens=4)
WAYS = pytest.mark.parametrize("streaming", [False, True], ids=["whole", "streamed"])


async def turn(server: ModelServer, *, streaming: bool) -> Any:
    on_text = (lambda _piece: None) if streaming else None
    return await models_for(server).turn(QUESTION, tools=[look], on_text=on_text)


@WAYS
@pytest.mark.parametrize("quirk", HARMLESS)
async def test_a_call_comes_whole_with_an_id_and_is_counted_once(quirk, streaming, recwarn):
    with ModelServer([CALL], quirks=[quirk]) as server:
        models = models_for(server)
        on_text = (lambda _piece: None) if streaming else None
        message = await models.turn(QUESTION, tools=[look], on_text=on_text)
        [call] = message.tool_calls
        assert (call["name"], call["args"]) == ("look", {"where": WHERE})
        assert call["id"]
        assert models.usage_of(message, None) == Usage(input_tokens=12, output_tokens=4, calls=1)
        assert len(server.requests) == 1
    assert [w for w in recwarn if "Pydantic" in str(w.message)] == []


@WAYS
@pytest.mark.parametrize("arguments", ['{"where": "/scratch/anna/run1', '{"where": ', "{", '["a"]'])
async def test_arguments_that_are_not_whole_make_a_broken_turn(arguments, streaming):
    broken = Reply(tool_calls=[("look", {"where": "/"}), ("look", arguments)])
    with ModelServer([broken] * 4) as server, pytest.raises(ModelUnavailable) as caught:
        await turn(server, streaming=streaming)
    assert "called a tool in a way that cannot be read (4 tries)" in caught.value.message


@WAYS
async def test_the_scripted_model_makes_the_same_broken_calls(streaming):
    model = ScriptedModel([replace(CALL, quirks=["cut-arguments"]), "Four."])
    models = Models(Settings(), given=model, retry=RetryPolicy(sleep=no_wait))
    on_text = (lambda _piece: None) if streaming else None
    message = await models.turn(QUESTION, tools=[look], on_text=on_text)
    assert (message.text, message.tool_calls) == ("Four.", [])


@WAYS
async def test_what_broken_tries_cost_is_counted(streaming):
    paid = replace(CALL, quirks=["cut-arguments"])
    with ModelServer([paid, paid, replace(CALL, quirks=["call-as-hermes"]), CALL]) as server:
        models = models_for(server)
        on_text = (lambda _piece: None) if streaming else None
        message = await models.turn(QUESTION, tools=[look], on_text=on_text)
    assert models.usage_of(message, None) == Usage(input_tokens=48, output_tokens=16, calls=4)
    with ModelServer([paid] * 4) as server, pytest.raises(ModelUnavailable) as caught:
        await turn(server, streaming=streaming)
    assert caught.value.usage == Usage(input_tokens=48, output_tokens=16, calls=4)


@WAYS
async def test_thoughts_are_kept_apart_from_the_answer(streaming):
    with ModelServer([Reply(text="Two files.", quirks=["think"])]) as server:
        message = await turn(server, streaming=streaming)
    assert message.text == "Two files."
    assert "Perhaps" in message.additional_kwargs["reasoning_content"]


async def test_thoughts_without_a_first_mark_are_held_back_once_a_model_was_seen_to_send_them():
    pieces: list[str] = []
    with ModelServer(["one", "two"], quirks=["think-unopened"]) as server:
        models = models_for(server)
        await models.ask(QUESTION, on_text=pieces.append)
        pieces.clear()
        await models.ask(QUESTION, on_text=pieces.append)
    assert pieces == ["two"]


async def test_an_unknown_quirk_says_which_there_are():
    with pytest.raises(ValueError, match=r"no quirk is called 'thnik'; there are: think,"):
        ModelServer([], quirks=["thnik"])


async def test_no_answer_at_all_to_a_turn_is_asked_for_again_once():
    with ModelServer([Reply(empty=True), "Two."]) as server:
        assert (await turn(server, streaming=True)).text == "Two."
    with ModelServer([Reply(empty=True)] * 2) as server, pytest.raises(ModelError, match="empty"):
        await turn(server, streaming=True)
