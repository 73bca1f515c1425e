"""What a model's server can do wrong: asked again where that helps, never taken for success.

Every fault is a real one: HTTP from a server on this machine, in OpenAI's and Gemini's words,
whole and streamed. Only the waiting between the tries is not real: it is written down.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.tools import tool

from fractale.errors import ModelError, ModelUnavailable
from fractale.models import Models, RetryPolicy
from fractale.models.turn import check_end
from fractale.settings import Settings
from fractale.testing import ModelServer, Reply, ScriptedModel

BACKENDS = ["openai", "gemini"]
QUESTION = [HumanMessage("How many nodes are free?")]
KEY = "sk-canary-0123456789abcdef"


@dataclass
class Clock:
    """Writes down how long would have been waited."""

    waits: list[float] = field(default_factory=list)

    async def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)


@pytest.fixture
def clock() -> Clock:
    return Clock()


def models_for(server: ModelServer, backend: str, clock: Clock, **policy: Any) -> Models:
    settings = Settings(
        model=f"{backend}:tested",
        openai_api_key=KEY,
        openai_base_url=server.openai_url,
        gemini_api_key=KEY,
        gemini_base_url=server.gemini_url,
    )
    return Models(settings, retry=RetryPolicy(sleep=clock.sleep, **policy))


@pytest.fixture(params=[f"{b}-{w}" for b in BACKENDS for w in ("whole", "streamed")])
def way(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """The backend, and how it is asked."""
    backend, how = request.param.split("-")
    return backend, {"on_text": lambda _piece: None} if how == "streamed" else {}


PASSING = {
    "429": Reply(status=429, text="slow down"),
    "500": Reply(status=500, text="oops"),
    "502": Reply(status=502, text="bad gateway"),
    "503": Reply(status=503, text="overloaded"),
    "504": Reply(status=504, text="gateway time-out"),
    "time-out": Reply(text="too late to be heard", delay=30),
    "cut off": Reply(text="one two three four five six", truncate=True),
    "malformed": Reply(text="one two three four five six", malformed=True),
    "no end": Reply(text="one two three four five six", finish=""),
}


@pytest.mark.parametrize("fault", PASSING)
async def test_a_fault_that_passes_is_asked_over_and_the_answer_taken(way, fault, clock):
    backend, options = way
    timeout = 1.0 if fault == "time-out" else None
    with ModelServer([PASSING[fault], "Four."]) as server:
        models = models_for(server, backend, clock)
        answer = await models.ask(QUESTION, timeout=timeout, **options)
    assert answer.text == "Four."
    assert len(server.requests) == 2
    assert len(clock.waits) == 1


@pytest.mark.parametrize("fault", PASSING)
async def test_a_fault_that_stays_is_a_failure_with_its_cause(way, fault, clock):
    backend, options = way
    timeout = 0.05 if fault == "time-out" else None
    with ModelServer([PASSING[fault]] * 4 + ["never reached"]) as server:
        models = models_for(server, backend, clock)
        with pytest.raises(ModelUnavailable) as caught:
            await models.ask(QUESTION, timeout=timeout, **options)
    error = caught.value
    assert len(clock.waits) == 3
    assert f"{backend}:tested" in error.message
    assert "(4 tries)" in error.message
    assert error.hint
    if fault.isdigit():
        assert f"HTTP {fault}" in error.message
        assert PASSING[fault].text in error.message


FINAL = {
    "empty": (Reply(empty=True), "is empty"),
    "blank": (Reply(text=" \n "), "is empty"),
    "too long": (Reply(text="one two", finish="length"), "cut off at its length limit"),
    "withheld": (Reply(text="one two", finish="content_filter"), "withheld its answer"),
    "wrong key": (Reply(status=401, text="invalid key"), "does not accept the key"),
    "not allowed": (Reply(status=403, text="not for you"), "may not be used with this key"),
    "no such model": (Reply(status=404, text="no such model"), "HTTP 404"),
    "bad request": (Reply(status=400, text="what is this?"), "HTTP 400"),
    "long input": (
        Reply(status=400, text="This model's maximum context length is 8192 tokens"),
        "too long",
    ),
    "no money": (Reply(status=429, text="you have run out: insufficient_quota"), "refused"),
}


@pytest.mark.parametrize("fault", FINAL)
async def test_a_fault_that_cannot_pass_fails_at_once(way, fault, clock):
    backend, options = way
    reply, says = FINAL[fault]
    with (
        ModelServer([reply, "never reached"]) as server,
        pytest.raises(ModelError, match=says) as caught,
    ):
        await models_for(server, backend, clock).ask(QUESTION, **options)
    assert not isinstance(caught.value, ModelUnavailable)
    assert len(server.requests) == 1
    assert clock.waits == []


@pytest.mark.parametrize("fault", ["too long", "withheld", "empty"])
async def test_what_was_paid_for_a_failure_is_told(way, fault, clock):
    backend, options = way
    reply = replace(FINAL[fault][0], input_tokens=30, output_tokens=5)
    with ModelServer([reply]) as server, pytest.raises(ModelError) as caught:
        await models_for(server, backend, clock).ask(QUESTION, **options)
    assert caught.value.usage.total_tokens == 35


@pytest.mark.parametrize("streaming", [False, True])
async def test_a_request_that_gemini_blocks_fails_at_once_and_quietly(streaming, clock, caplog):
    options: dict[str, Any] = {"on_text": lambda _piece: None} if streaming else {}
    with ModelServer([Reply(finish="blocked", input_tokens=30), "never"]) as server:
        with pytest.raises(ModelError, match="withheld its answer") as caught:
            await models_for(server, "gemini", clock).ask(QUESTION, **options)
        assert len(server.requests) == 1
    assert "prohibited_content" in caught.value.message
    if streaming:  # LangChain drops the count of a whole answer without candidates
        assert caught.value.usage.input_tokens == 30
    assert [r for r in caplog.records if r.name.startswith("langchain_google_genai")] == []


PAGE = "<html><head><title>502 Bad Gateway</title></head><body>nginx</body></html>"


async def test_of_a_gateways_page_its_title_is_told(clock):
    fault = Reply(status=502, text=PAGE, quirks=["error-text"])
    with ModelServer([fault] * 4) as server, pytest.raises(ModelUnavailable) as caught:
        await models_for(server, "openai", clock).ask(QUESTION)
    assert "(HTTP 502): 502 Bad Gateway (4 tries)" in caught.value.message


async def test_an_answer_of_a_schema_that_is_cut_off_is_counted_too(way, clock):
    backend, options = way
    reply = Reply(data={"a": 1}, finish="length", input_tokens=30, output_tokens=5)
    with ModelServer([reply]) as server, pytest.raises(ModelError, match="length") as caught:
        await models_for(server, backend, clock).ask(QUESTION, schema={"type": "object"}, **options)
    assert caught.value.usage.total_tokens == 35


async def test_an_answer_of_a_schema_that_is_withheld_fails_at_once(way, clock):
    backend, options = way
    reply = Reply(data={"a": 1}, finish="content_filter")
    with ModelServer([reply]) as server, pytest.raises(ModelError, match="withheld"):
        await models_for(server, backend, clock).ask(QUESTION, schema={"type": "object"}, **options)
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("metadata", "error", "says"),
    [
        ({"finish_reason": "MAX_TOKENS"}, ModelError, "length limit"),
        ({"finish_reason": "lengthlength"}, ModelError, "length limit"),
        ({"stop_reason": "max_tokens"}, ModelError, "length limit"),
        ({"done_reason": "length"}, ModelError, "length limit"),
        ({"incomplete_details": {"reason": "max_output_tokens"}}, ModelError, "length limit"),
        ({"incomplete_details": {}}, ModelUnavailable, "broke off"),
        ({"status": "failed"}, ModelUnavailable, "broke off"),
        ({"stop_reason": "refusal"}, ModelError, "withheld"),
        ({"finish_reason": "PROHIBITED_CONTENT"}, ModelError, "withheld"),
        ({"finish_reason": "MALFORMED_FUNCTION_CALL"}, ModelUnavailable, "cannot be read"),
    ],
)
def test_the_end_of_an_answer_is_read_in_every_providers_words(metadata, error, says):
    message = AIMessage("Four", response_metadata=metadata)
    with pytest.raises(error, match=says):
        check_end(message, "any:model")


@pytest.mark.parametrize(
    "metadata",
    [{}, {"finish_reason": "STOP"}, {"status": "completed"}, {"stop_reason": "tool_use"}],
)
def test_an_answer_that_ended_by_itself_is_one(metadata):
    check_end(AIMessage("Four", response_metadata=metadata), "any:model")


# -- how long is waited ----------------------------------------------------------------------------


async def test_the_waits_grow_and_are_spread(clock):
    waits: dict[float, list[float]] = {}
    for chance in (0.0, 1.0):
        policy = RetryPolicy(tries=6, max_delay=6.0, random=lambda value=chance: value)
        waits[chance] = [policy.wait_before(n, None) for n in range(1, 6)]
    assert waits[1.0] == [1.0, 2.0, 4.0, 6.0, 6.0]
    assert waits[0.0] == [0.5, 1.0, 2.0, 3.0, 3.0]


async def test_two_runs_do_not_come_back_at_the_same_time():
    policy = RetryPolicy()
    assert len({policy.wait_before(1, None) for _ in range(20)}) > 1
    assert len({policy.wait_before(1, 5.0) for _ in range(20)}) > 1


@pytest.mark.parametrize("status", [429, 503])
async def test_the_server_decides_how_long_at_least(way, status, clock):
    backend, options = way
    with ModelServer([Reply(status=status, retry_after=17), "Four."]) as server:
        await models_for(server, backend, clock).ask(QUESTION, **options)
    assert 17 <= clock.waits[0] <= 18


async def test_a_wait_beyond_patience_is_told_instead_of_waited(way, clock):
    backend, options = way
    with (
        ModelServer([Reply(status=429, retry_after=3600), "never"]) as server,
        pytest.raises(ModelUnavailable, match="asks to wait 3600 s") as caught,
    ):
        await models_for(server, backend, clock).ask(QUESTION, **options)
    assert caught.value.retry_after == 3600
    assert clock.waits == []


@pytest.mark.parametrize(
    ("header", "value", "seconds"),
    [
        ("Retry-After", "12", (12, 13)),
        ("Retry-After", "1.5", (1.5, 2.6)),
        ("retry-after-ms", "12000", (12, 13)),
        ("Retry-After", "date", (25, 31)),
        ("Retry-After", "soon", (0.5, 1)),
        ("Retry-After", "-5", (0.5, 1)),
    ],
)
async def test_a_time_to_wait_is_read_in_every_form(header, value, seconds, clock):
    if value == "date":
        value = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    fault = Reply(status=503, text="busy", headers={header: value})
    with ModelServer([fault, "Four."]) as server:
        await models_for(server, "openai", clock).ask(QUESTION)
    assert seconds[0] <= clock.waits[0] <= seconds[1]


async def test_a_server_may_say_that_asking_again_is_of_no_use(clock):
    fault = Reply(status=500, text="broken for good", headers={"x-should-retry": "false"})
    with ModelServer([fault, "never"]) as server, pytest.raises(ModelError, match="for good"):
        await models_for(server, "openai", clock).ask(QUESTION)
    assert clock.waits == []


# -- out of reach ----------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
async def test_a_server_that_is_not_there_is_asked_again_and_then_named(backend, clock):
    with ModelServer([]) as server:
        models = models_for(server, backend, clock)
    with pytest.raises(ModelUnavailable, match="cannot be reached") as caught:
        await models.ask(QUESTION)
    assert len(clock.waits) == 3
    assert "network" in (caught.value.hint or "")


# -- secrets ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [400, 401, 429, 500])
async def test_a_key_that_a_server_quotes_is_not_repeated(way, status, clock):
    backend, options = way
    text = f"no: {KEY} (Bearer {KEY}), nor AIzaSyA-0123456789012345678901234567890"
    with (
        ModelServer([Reply(status=status, text=text)] * 4) as server,
        pytest.raises(ModelError) as caught,
    ):
        await models_for(server, backend, clock).ask(QUESTION, **options)
    shown = f"{caught.value!r} {caught.value} {caught.value.hint}"
    assert KEY not in shown
    assert "AIza" not in shown
    assert "***" in shown


@pytest.mark.parametrize(
    ("backend", "variable"), [("openai", "OPENAI_API_KEY"), ("gemini", "GEMINI_API_KEY")]
)
async def test_a_wrong_key_says_which_variable_to_check(backend, variable, clock):
    faults = [Reply(status=401, text="no"), Reply(status=400, text="API key not valid.")]
    for fault in faults:
        with ModelServer([fault]) as server, pytest.raises(ModelError) as caught:
            await models_for(server, backend, clock).ask(QUESTION)
        assert variable in (caught.value.hint or "")
        assert "--backend local" in (caught.value.hint or "")


# -- agents ----------------------------------------------------------------------------------------


@tool
def free_nodes() -> str:
    """Count the free nodes."""
    return "4"


async def run_agent(models: Models, *, streaming: bool) -> Any:
    """A loop of turns, as the steps of a plan make them."""
    messages: list[Any] = list(QUESTION)
    on_text = (lambda _piece: None) if streaming else None
    while True:
        messages.append(await models.turn(messages, tools=[free_nodes], on_text=on_text))
        if not messages[-1].tool_calls:
            return messages
        messages += [await free_nodes.ainvoke(call) for call in messages[-1].tool_calls]


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("backend", BACKENDS)
async def test_an_agents_turns_are_retried_like_questions(backend, streaming, clock):
    script = [
        Reply(status=503, text="busy", retry_after=2 if backend == "gemini" else None),
        Reply(tool_calls=[("free_nodes", {})]),
        PASSING["cut off"],
        "There are four.",
    ]
    with ModelServer(script) as server:
        messages = await run_agent(models_for(server, backend, clock), streaming=streaming)
    assert [m.text for m in messages[2:]] == ["4", "There are four."]
    assert len(clock.waits) == 2


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("backend", BACKENDS)
async def test_an_agents_answer_that_is_cut_off_is_no_answer(backend, streaming, clock):
    script = [Reply(text="There are", finish="length", input_tokens=30, output_tokens=5)]
    with ModelServer(script) as server, pytest.raises(ModelError, match="length") as caught:
        await run_agent(models_for(server, backend, clock), streaming=streaming)
    assert caught.value.usage.total_tokens == 35


async def test_a_tool_call_that_cannot_be_read_is_asked_over(clock):
    script = [Reply(text="I call", tool_calls=[("free_nodes", '{"broken')]), "Four."]
    with ModelServer(script) as server:
        messages = await run_agent(models_for(server, "openai", clock), streaming=False)
    assert messages[-1].text == "Four."
    assert len(clock.waits) == 1


# -- the same faults without HTTP ------------------------------------------------------------------


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("fault", [name for name in PASSING if name != "no end"])
async def test_the_scripted_model_has_the_same_faults(fault, streaming, clock):
    timeout = 0.5 if fault == "time-out" else None
    model = ScriptedModel([PASSING[fault], "Four."])
    models = Models(Settings(), given=model, retry=RetryPolicy(sleep=clock.sleep))
    options: dict[str, Any] = {"on_text": lambda _piece: None} if streaming else {}
    answer = await models.ask(QUESTION, timeout=timeout, **options)
    assert answer.text == "Four."
    assert len(clock.waits) == 1


async def test_the_scripted_model_asks_to_wait_too(clock):
    model = ScriptedModel([Reply(status=429, retry_after=9), "Four."])
    models = Models(Settings(), given=model, retry=RetryPolicy(sleep=clock.sleep))
    await models.ask(QUESTION)
    assert 9 <= clock.waits[0] <= 10


# -- the scripted server ---------------------------------------------------------------------------


async def test_a_script_that_is_used_up_says_so(clock):
    with ModelServer(["one"]) as server:
        models = models_for(server, "openai", clock, tries=1)
        await models.ask(QUESTION)
        with pytest.raises(ModelUnavailable, match="no reply left after 1"):
            await models.ask(QUESTION)


async def test_an_address_without_a_model_says_so(clock):
    with ModelServer([]) as server:
        settings = Settings(
            model="openai:x", openai_api_key=KEY, openai_base_url=f"{server.url}/wrong"
        )
        with pytest.raises(ModelError, match="the scripted server has no /wrong"):
            await Models(settings).ask(QUESTION)


def test_a_server_that_is_not_started_says_so():
    with pytest.raises(RuntimeError, match="with"):
        _ = ModelServer([]).url
