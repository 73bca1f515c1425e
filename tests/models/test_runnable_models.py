"""Models as LangChain combines them: retries, fallbacks, bindings, configurable models, chains."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.chat_models import init_chat_model
from langchain_core.caches import InMemoryCache
from langchain_core.language_models import FakeListLLM
from langchain_core.messages import HumanMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate, MessagesPlaceholder
from langchain_core.rate_limiters import InMemoryRateLimiter
from langchain_core.runnables import ConfigurableField, RunnableLambda
from langchain_openai import ChatOpenAI

import fractale
from fractale.errors import UsageError
from fractale.models import Models, Usage
from fractale.settings import Price, Settings
from fractale.testing import ModelServer, Reply, ScriptedModel

QUESTION = [HumanMessage("How many nodes are free?")]
SCHEMA = {"type": "object", "properties": {"nodes": {"type": "integer"}}, "required": ["nodes"]}
PROMPT = ChatPromptTemplate.from_messages([("system", "Be brief."), MessagesPlaceholder("said")])
AGENT = """
name: asks
steps: [{name: look, agent: ask, instruction: "How many nodes are free?", tools: [free]}]
outputs: {said: "{{ steps.look.outputs.content }}"}
"""


def free() -> dict[str, int]:
    """The number of free nodes."""
    return {"nodes": 4}


def down() -> ScriptedModel:
    return ScriptedModel([Reply(status=400, text="out of order")] * 9, model_name="down")


def alternatives(model: Any) -> Any:
    field = ConfigurableField(id="which")
    return (
        down()
        .configurable_alternatives(field, fine=model)
        .with_config(configurable={"which": "fine"})
    )


WAYS: dict[str, Callable[[Any], Any]] = {
    "itself": lambda m: m,
    "with_retry": lambda m: m.with_retry(wait_exponential_jitter=False),
    "with_fallbacks": lambda m: m.with_fallbacks([down()]),
    "a fallback": lambda m: down().with_fallbacks([m]),
    "bind": lambda m: m.bind(stop=["END"]),
    "with_config": lambda m: m.with_config(tags=["mine"]),
    "configurable_alternatives": alternatives,
    "a prompt before": lambda m: PROMPT | m,
    "a function after": lambda m: m | RunnableLambda(lambda message: message),
    "all of them": lambda m: (
        PROMPT
        | down()
        .with_fallbacks([m.bind(stop=["END"]).with_retry(wait_exponential_jitter=False)])
        .with_config(tags=["mine"])
    ),
}
EACH = pytest.mark.parametrize("way", WAYS)


@EACH
async def test_an_agent_with_tools_works_with_a_combination(way, settings):
    inner = ScriptedModel([Reply(tool_calls=[("free", {})]), "Four"])
    result = await fractale.arun(
        AGENT, tools=[free], model=WAYS[way](inner), settings=settings, yes=True
    )
    assert (result.status, result.outputs) == ("success", {"said": "Four"}), result.error
    offered = [tool["function"]["name"] for tool in inner.options[0]["tools"]]
    assert "free" in offered


@EACH
async def test_a_structured_answer_comes_from_a_combination(way):
    inner = ScriptedModel([Reply(data={"nodes": 4}, input_tokens=7, output_tokens=3)])
    answer = await Models(Settings(), given=WAYS[way](inner)).ask(QUESTION, schema=SCHEMA)
    assert answer.data == {"nodes": 4}
    assert answer.usage == Usage(input_tokens=7, output_tokens=3, calls=1)
    assert "response_format" in inner.options[0]


def openai(server: ModelServer, **fields: Any) -> dict[str, Any]:
    return {"api_key": "sk-1", "base_url": server.openai_url, "max_retries": 0, **fields}


async def test_a_configurable_model_is_asked_with_its_default():
    with ModelServer([Reply(text="Four", input_tokens=7, output_tokens=3)]) as server:
        chat = init_chat_model("openai:gpt-4.1", configurable_fields=("model",), **openai(server))
        models = Models(Settings(), given=chat)
        assert models.spec(None) == "openai:gpt-4.1"
        answer = await models.ask(QUESTION)
    assert (answer.text, answer.usage) == ("Four", Usage(input_tokens=7, output_tokens=3, calls=1))
    assert server.requests[0].model == "gpt-4.1"


@pytest.mark.parametrize("default", [None, "openai:gpt-4.1"])
async def test_a_run_configures_its_model(default, settings):
    replies = [Reply(tool_calls=[("free", {})]), "Four"]
    with ModelServer(replies) as server:
        chat = init_chat_model(
            default, configurable_fields=("model", "model_provider"), **openai(server)
        )
        graph = fractale.plan_graph(
            fractale.load(AGENT), tools=[free], model=chat, settings=settings
        )
        config = {"configurable": {"model": "openai:gpt-4.1-mini"}}
        if default:
            config = {"configurable": {"model": "gpt-4.1-mini"}}
        after = await graph.ainvoke({}, config, context={"yes": True})
    assert (after["status"], after["outputs"]) == ("success", {"said": "Four"}), after
    assert [request.model for request in server.requests] == ["gpt-4.1-mini"] * 2
    assert all("tools" in request.body for request in server.requests)


async def test_fields_of_a_model_can_be_configured():
    with ModelServer([Reply(data={"nodes": 4})]) as server:
        chat = ChatOpenAI(model="gpt-4.1", **openai(server)).configurable_fields(
            model_name=ConfigurableField(id="which")
        )
        bound = chat.with_config(configurable={"which": "gpt-4.1-mini"})
        answer = await Models(Settings(), given=bound).ask(QUESTION, schema=SCHEMA)
    assert answer.data == {"nodes": 4}
    assert server.requests[0].model == "gpt-4.1-mini"
    assert "response_format" in server.requests[0].body


async def test_the_cost_is_that_of_the_model_that_answered():
    prices = {
        "openai:gpt-4.1": Price(input=100, output=100),
        "openai:gpt-4.1-mini": Price(input=1, output=1),
    }
    refused = Reply(status=400, text="no")
    with ModelServer([refused, Reply(text="Four", input_tokens=7, output_tokens=3)]) as server:
        large, small = (
            ChatOpenAI(model=name, **openai(server)) for name in ("gpt-4.1", "gpt-4.1-mini")
        )
        models = Models(replace(Settings(), prices=prices), given=large.with_fallbacks([small]))
        answer = await models.ask(QUESTION)
    assert answer.usage.cost == pytest.approx(10 / 1e6)
    assert [request.model for request in server.requests] == ["gpt-4.1", "gpt-4.1-mini"]


async def test_with_retry_retries_an_answer_that_is_shown_as_it_comes():
    class Odd(Exception):
        pass

    asked: list[int] = []

    def answer(_messages: Any) -> str:
        asked.append(1)
        if len(asked) == 1:
            raise Odd
        return "Four"

    chat = ScriptedModel(answer).with_retry(
        retry_if_exception_type=(Odd,), wait_exponential_jitter=False
    )
    shown: list[str] = []
    said = await Models(Settings(), given=chat).ask(QUESTION, on_text=shown.append)
    assert (said.text, shown, len(asked)) == ("Four", ["Four"], 2)


async def test_a_cache_answers_the_second_time():
    chat = ScriptedModel(["Four"], cache=InMemoryCache())
    models = Models(Settings(), given=chat)
    for _ in range(2):
        assert (await models.ask(QUESTION, on_text=lambda _text: None)).text == "Four"
    assert len(chat.requests) == 1


async def test_a_rate_limiter_is_asked_before_each_request():
    taken: list[bool] = []

    class Counted(InMemoryRateLimiter):
        async def aacquire(self, *, blocking: bool = True) -> bool:
            taken.append(blocking)
            return True

    chat = ScriptedModel(["1", "2"], rate_limiter=Counted(requests_per_second=1000))
    models = Models(Settings(), given=chat.with_config(tags=["mine"]))
    await models.ask(QUESTION)
    await models.ask(QUESTION, on_text=lambda _text: None)
    assert len(taken) == 2


def graph_of_an_agent() -> Any:
    return create_agent(ScriptedModel([]))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (42, "`model` cannot be the int `42`"),
        (free, "`model` cannot be the function `free`"),
        (ChatOpenAI, "`model` cannot be the ModelMetaclass `ChatOpenAI`"),
        (FakeListLLM(responses=["x"]), "completes text and does not chat"),
        (graph_of_an_agent(), "`model` cannot be a graph"),
    ],
)
async def test_anything_else_is_refused(given, message, settings):
    with pytest.raises(UsageError, match=message):
        Models(settings, given=given)
    with pytest.raises(UsageError, match=message):
        await fractale.arun(AGENT, tools=[free], model=given, settings=settings)


@pytest.mark.parametrize("listens", [True, False])
async def test_a_chain_must_end_with_a_message(listens):
    chat = ScriptedModel(["Four"]) | StrOutputParser()
    on_text = (lambda _text: None) if listens else None
    with pytest.raises(UsageError, match="not a message of a model: "):
        await Models(Settings(), given=chat).ask(QUESTION, on_text=on_text)


async def test_a_function_answers_but_cannot_have_tools(settings):
    scripted = ScriptedModel(["Four"])
    chat = RunnableLambda(lambda messages: scripted.invoke(messages))
    models = Models(settings, given=chat)
    assert (await models.ask(QUESTION)).text == "Four"
    result = await fractale.arun(AGENT, tools=[free], model=chat, settings=settings)
    assert result.status == "failed"
    assert "no chat model was found" in (result.error or "")
