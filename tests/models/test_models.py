"""Chat models: which one, what it needs, what it answers, what it used."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from dataclasses import replace
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.chat_models import base as langchain_models
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.tools import tool
from pydantic import BaseModel

from fractale.errors import DependencyMissing, ModelError, SettingsError, UsageError
from fractale.models import Models, Usage, find_json, providers, whole_json
from fractale.settings import Price, Settings, load_settings
from fractale.testing import ModelServer, Reply, ScriptedModel

BOTH = pytest.mark.parametrize("backend", ["openai", "gemini"])
QUESTION = [HumanMessage("How many nodes are free?")]
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"nodes": {"type": "integer"}},
    "required": ["nodes"],
}


def settings_for(server: ModelServer, backend: str) -> Settings:
    return Settings(
        provider=backend,
        model=f"{backend}:tested",
        openai_api_key="sk-the-key-of-openai",
        openai_base_url=server.openai_url,
        gemini_api_key="the-key-of-gemini",
        gemini_base_url=server.gemini_url,
    )


def has_schema(body: Any) -> bool:
    return "response_format" in body or "responseJsonSchema" in body.get("generationConfig", {})


# -- answers ---------------------------------------------------------------------------------------


@BOTH
async def test_an_answer_is_text_with_its_usage_and_model(backend):
    with ModelServer([Reply(text="Four of them", input_tokens=7, output_tokens=3)]) as server:
        answer = await Models(settings_for(server, backend)).ask(QUESTION)
    assert (answer.text, answer.data, answer.model) == ("Four of them", None, f"{backend}:tested")
    assert answer.usage == Usage(input_tokens=7, output_tokens=3, calls=1)
    assert answer.usage.total_tokens == 10
    [request] = server.requests
    assert (request.protocol, request.model, request.streaming) == (backend, "tested", False)
    assert request.key == {"openai": "sk-the-key-of-openai", "gemini": "the-key-of-gemini"}[backend]


@BOTH
async def test_a_streamed_answer_comes_in_pieces_and_is_counted_the_same(backend):
    pieces: list[str] = []
    with ModelServer([Reply(text="Four of them", input_tokens=7, output_tokens=3)]) as server:
        answer = await Models(settings_for(server, backend)).ask(QUESTION, on_text=pieces.append)
    assert pieces == ["Four ", "of ", "them"]
    assert answer.text == "Four of them"
    assert answer.usage == Usage(input_tokens=7, output_tokens=3, calls=1)
    assert server.requests[0].streaming


@BOTH
@pytest.mark.parametrize(
    ("text", "data"),
    [
        ('```json\n{"nodes": 4}\n```', {"nodes": 4}),
        ('It is:\n```json\n{"nodes": 4}\n```\nBye.', None),
        ('The image runs CMD ["/bin/busybox"].', None),
    ],
)
async def test_without_a_schema_json_is_what_the_text_is_as_a_whole(backend, text, data):
    with ModelServer([text]) as server:
        answer = await Models(settings_for(server, backend)).ask(QUESTION)
    assert (answer.text, answer.data) == (text, data)


@BOTH
async def test_the_cost_follows_the_settings_prices(backend):
    with ModelServer([Reply(text="x", input_tokens=1000, output_tokens=500)]) as server:
        prices = {f"{backend}:tested": Price(input=2.0, output=8.0)}
        models = Models(replace(settings_for(server, backend), prices=prices))
        answer = await models.ask(QUESTION)
    assert answer.usage.cost == pytest.approx(0.006)
    assert models.cost("openai:another", 1, 1) is None
    assert models.cost("local:any", 1_000_000, 1) == 0.0


@pytest.mark.parametrize(
    "metadata",
    [
        {"token_usage": {"prompt_tokens": 7, "completion_tokens": 3}},
        {"usage": {"input_tokens": 7, "output_tokens": 3}},
    ],
)
def test_a_provider_may_count_in_its_own_words(metadata):
    message = AIMessage("x", response_metadata=metadata)
    assert Models(Settings()).usage_of(message, None).total_tokens == 10


def test_usages_add_up():
    one = Usage(input_tokens=1, output_tokens=2, cost=0.5, calls=1)
    assert (one + one).as_dict() == {
        "input_tokens": 2,
        "output_tokens": 4,
        "cost": 1.0,
        "calls": 2,
        "total_tokens": 6,
    }


@BOTH
def test_one_models_object_serves_several_event_loops(backend):
    with ModelServer(["one", "two"]) as server:
        models = Models(settings_for(server, backend))
        texts = [asyncio.run(models.ask(QUESTION)).text for _ in range(2)]
    assert texts == ["one", "two"]
    assert len(server.requests) == 2, "no request was wasted on a dead connection"


# -- structured output -----------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("streaming", [False, True])
async def test_a_schema_goes_with_the_request_where_the_provider_takes_it(backend, streaming):
    on_text = (lambda _piece: None) if streaming else None
    with ModelServer([Reply(data={"nodes": 4})]) as server:
        models = Models(settings_for(server, backend))
        answer = await models.ask(QUESTION, schema=SCHEMA, on_text=on_text)
    assert answer.data == {"nodes": 4}
    assert answer.usage.calls == 1
    body = server.requests[0].body
    if backend == "openai":
        assert body["response_format"]["json_schema"]["schema"] == SCHEMA
        assert body["response_format"]["json_schema"]["strict"] is False
    else:
        assert body["generationConfig"]["responseJsonSchema"] == SCHEMA
        assert body["generationConfig"]["responseMimeType"] == "application/json"


@BOTH
@pytest.mark.parametrize("status", [400, 422])
async def test_where_a_server_refuses_the_schema_it_is_asked_for_in_words(backend, status):
    def answer(request):
        if has_schema(request.body):
            return Reply(status=status, text="structured output is not supported")
        return 'Sure! {"nodes": 4} is it.'

    with ModelServer(answer) as server:
        models = Models(settings_for(server, backend))
        assert (await models.ask(QUESTION, schema=SCHEMA)).data == {"nodes": 4}
        assert (await models.ask(QUESTION, schema=SCHEMA)).data == {"nodes": 4}
    assert [has_schema(request.body) for request in server.requests] == [True, False, False]
    assert '\\"nodes\\"' in json.dumps(server.requests[1].body)


async def test_a_request_that_is_refused_for_another_reason_is_an_error():
    with ModelServer(lambda _request: Reply(status=400, text="unknown parameter")) as server:
        models = Models(settings_for(server, "openai"))
        with pytest.raises(ModelError, match="unknown parameter"):
            await models.ask(QUESTION, schema=SCHEMA)
        with pytest.raises(ModelError):
            await models.ask(QUESTION, schema=SCHEMA)
    assert [has_schema(r.body) for r in server.requests] == [True, False, True, False]


@BOTH
async def test_json_that_does_not_fit_is_corrected_once_with_its_errors_named(backend):
    replies = [
        Reply(data={"nodes": "four"}, input_tokens=10, output_tokens=2),
        Reply(data={"nodes": 4}, input_tokens=20, output_tokens=2),
    ]
    with ModelServer(replies) as server:
        answer = await Models(settings_for(server, backend)).ask(QUESTION, schema=SCHEMA)
    assert answer.data == {"nodes": 4}
    assert answer.usage == Usage(input_tokens=30, output_tokens=4, calls=2)
    sent = json.dumps(server.requests[1].body)
    assert "$.nodes: 'four' is not of type 'integer'" in sent
    assert "four" in json.dumps(server.requests[1].body)


async def test_json_that_still_does_not_fit_is_left_to_the_step_to_judge():
    model = ScriptedModel([Reply(data={"nodes": "four"}), Reply(data={"nodes": "five"})])
    answer = await Models(Settings(), given=model).ask(QUESTION, schema=SCHEMA)
    assert answer.data == {"nodes": "five"}
    assert len(model.requests) == 2


async def test_a_correction_without_json_leaves_the_first_answer():
    model = ScriptedModel([Reply(data={"nodes": "four"}), "I am sorry."])
    answer = await Models(Settings(), given=model).ask(QUESTION, schema=SCHEMA)
    assert answer.data == {"nodes": "four"}
    assert answer.text == '{"nodes": "four"}'


async def test_no_json_after_the_correction_is_an_error_that_says_what_was_paid():
    model = ScriptedModel(["I would say four.", "Yes, four."])
    with pytest.raises(ModelError, match=r"Yes, four\.") as caught:
        await Models(Settings(), given=model).ask(QUESTION, schema=SCHEMA)
    assert caught.value.usage.calls == 2
    assert "it contains no JSON" in model.requests[1][-1].text


async def test_of_several_values_in_the_text_the_one_that_fits_is_meant():
    model = ScriptedModel(['Not {"n": 1} but {"nodes": 4}.'], structured_output=False)
    answer = await Models(Settings(), given=model).ask(QUESTION, schema=SCHEMA)
    assert answer.data == {"nodes": 4}
    assert answer.usage.calls == 1


@pytest.mark.parametrize(
    ("schema", "text", "data"),
    [({"type": "integer"}, "4", 4), ({"type": "array"}, "[1, 2]", [1, 2])],
)
async def test_a_schema_need_not_be_of_an_object(schema, text, data):
    model = ScriptedModel([text])
    assert (await Models(Settings(), given=model).ask(QUESTION, schema=schema)).data == data


async def test_a_schema_with_a_reference_to_elsewhere_fetches_nothing():
    with ModelServer([]) as elsewhere:
        schema = {"$ref": f"{elsewhere.url}/schema.json"}
        model = ScriptedModel([Reply(data={}), Reply(data={})])
        answer = await Models(Settings(), given=model).ask(QUESTION, schema=schema)
    assert answer.data == {}
    assert "the schema itself cannot be used" in model.requests[1][-1].text


# -- tools -----------------------------------------------------------------------------------------


@tool
def free_nodes(partition: str) -> str:
    """Count the free nodes of a partition."""
    return f"4 in {partition}"


@BOTH
async def test_tools_are_described_and_called(backend):
    with ModelServer([Reply(tool_calls=[("free_nodes", {"partition": "debug"})])]) as server:
        chat = Models(settings_for(server, backend)).get(None).bind_tools([free_nodes])
        message = await chat.ainvoke(QUESTION)
    [call] = message.tool_calls
    assert (call["name"], call["args"]) == ("free_nodes", {"partition": "debug"})
    assert "Count the free nodes" in json.dumps(server.requests[0].body["tools"])


@BOTH
async def test_an_agent_works_over_either_protocol(backend):
    script = [Reply(tool_calls=[("free_nodes", {"partition": "debug"})]), "There are four."]
    with ModelServer(script) as server:
        agent: Any = create_agent(Models(settings_for(server, backend)).get(None), [free_nodes])
        seen = [
            chunk async for chunk in agent.astream({"messages": QUESTION}, stream_mode="values")
        ]
    messages = seen[-1]["messages"]
    assert [m.text for m in messages[2:]] == ["4 in debug", "There are four."]
    assert messages[-1].usage_metadata["output_tokens"] == 3
    assert "4 in debug" in json.dumps(server.requests[1].body)


# -- which model, and what it needs ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "name", "spec"),
    [
        (Settings(), None, "gemini:gemini-2.5-pro"),
        (Settings(provider="openai"), None, "openai:gpt-4.1"),
        (Settings(provider="local"), None, "local:smollm2-135m"),
        (Settings(provider="openai", model="gpt-5"), None, "openai:gpt-5"),
        (Settings(model="openai:gpt-5"), None, "openai:gpt-5"),
        (Settings(provider="openai"), "o4-mini", "openai:o4-mini"),
        (Settings(), "anthropic:claude-sonnet-4-5", "anthropic:claude-sonnet-4-5"),
        (Settings(), "google_genai:gemini-2.5-flash", "gemini:gemini-2.5-flash"),
        (Settings(), "ollama:llama3:8b", "ollama:llama3:8b"),
        (Settings(), "Azure-OpenAI:mine", "azure_openai:mine"),
    ],
)
def test_a_model_is_named_by_provider_and_name(settings, name, spec):
    assert Models(settings).spec(name) == spec


@pytest.mark.parametrize(
    ("name", "says"),
    [("opnai:gpt-5", "did you mean `openai`"), ("llama3:8b", "provider:name"), ("openai:", "NAME")],
)
def test_a_name_that_is_no_model_says_what_would_be(name, says):
    with pytest.raises(UsageError) as caught:
        Models(Settings()).spec(name)
    assert says in (caught.value.hint or "")


def test_every_provider_of_langchain_is_known():
    theirs = set(langchain_models._BUILTIN_PROVIDERS)
    assert theirs - set(providers.PROVIDERS) == {"google_genai"}, "which is `gemini`"


@pytest.mark.parametrize(
    ("backend", "variable"), [("gemini", "GEMINI_API_KEY"), ("openai", "OPENAI_API_KEY")]
)
def test_a_missing_key_names_its_variable_and_offers_the_local_model(backend, variable):
    models = Models(Settings(provider=backend))
    for find_out in (models.check, models.get):
        with pytest.raises(SettingsError, match=variable) as caught:
            find_out(None)
        assert variable in (caught.value.hint or "")
        assert "--backend local" in (caught.value.hint or "")


@pytest.mark.parametrize("variable", ["GEMINI_API_KEY", "GEMINI_API_TOKEN", "GOOGLE_API_KEY"])
def test_geminis_key_has_several_names(variable, tmp_path):
    settings = load_settings({variable: "a-key-of-gemini"}, tmp_path)
    Models(settings).check(None)


def test_a_server_of_ones_own_needs_no_key():
    Models(Settings(provider="openai", openai_base_url="http://127.0.0.1:8000/v1")).check(None)
    with pytest.raises(SettingsError, match="OPENAI_API_KEY"):
        Models(Settings(provider="openai", openai_base_url="https://eu.api.openai.com/v1")).check(
            None
        )


def test_another_providers_key_and_package_are_named():
    with pytest.raises(SettingsError, match="MISTRAL_API_KEY"):
        Models(Settings()).check("mistralai:large")
    keyed = Models(Settings(environment={"MISTRAL_API_KEY": "x" * 9}))
    for find_out in (keyed.check, keyed.get):
        with pytest.raises(DependencyMissing) as caught:
            find_out("mistralai:large")
        assert caught.value.hint == "pip install langchain-mistralai"


def test_what_another_provider_lacks_is_told(monkeypatch):
    # The environment of LangChain's own packages, not ours.
    monkeypatch.delenv("AZURE_OPENAI_ENDPOINT", raising=False)
    models = Models(Settings(environment={"AZURE_OPENAI_API_KEY": "x"}))
    with pytest.raises(SettingsError, match="azure_openai:mine"):
        models.get("azure_openai:mine")


def test_a_provider_that_langchain_does_not_know_has_its_class_in_the_table(tmp_path, monkeypatch):
    package = "class ChatCerebras:\n    def __init__(self, *, model):\n        self.model = model\n"
    (tmp_path / "langchain_cerebras.py").write_text(package)
    monkeypatch.syspath_prepend(str(tmp_path))
    settings = Settings(environment={"CEREBRAS_API_KEY": "x" * 9})
    assert providers.build(settings, "cerebras", "llama3.1-8b").model == "llama3.1-8b"


def test_a_local_file_that_is_no_model_is_found_before_the_run(tmp_path):
    with pytest.raises((SettingsError, DependencyMissing)):
        Models(Settings(provider="local", local_model=str(tmp_path / "no.gguf"))).check(None)


def test_what_is_ready_is_known_without_any_server():
    known = {m["spec"]: m for m in Models(Settings(openai_api_key="x")).known()}
    assert known["openai:gpt-4.1"] == {"spec": "openai:gpt-4.1", "ready": True, "why": ""}
    assert "GEMINI_API_KEY" in known["gemini:gemini-2.5-pro"]["why"]
    assert not known["gemini:gemini-2.5-pro"]["ready"]
    assert not Models(Settings(model="nonsense:x")).known()[0]["ready"]


def test_a_model_is_built_once_and_only_when_it_is_needed():
    models = Models(Settings(provider="openai"))
    assert models.spec(None) == "openai:gpt-4.1"
    keyed = Models(Settings(provider="openai", openai_api_key="x"))
    assert keyed.get(None) is keyed.get("openai:gpt-4.1")
    with pytest.raises(SettingsError):
        models.get(None)


def test_a_persons_own_model_needs_no_settings():
    own = ScriptedModel([])
    models = Models(Settings(), given=own)
    models.check("openai:gpt-5")
    assert models.get("openai:gpt-5") is own
    assert models.spec(None) == "given:scripted"
    assert models.known() == [{"spec": "given:scripted", "ready": True, "why": ""}]
    by_name = Models(Settings(), given={"my-model": own})
    assert by_name.get("my-model") is own
    by_name.check("my-model")
    with pytest.raises(SettingsError):
        by_name.check(None)


def test_importing_and_checking_loads_no_provider():
    code = (
        "import sys, fractale.models, fractale.testing\n"
        "from fractale.settings import Settings\n"
        "models = fractale.models.Models(Settings(openai_api_key='x', gemini_api_key='x'))\n"
        "models.known(); models.check(None); models.check('openai:gpt-5')\n"
        "heavy = {'openai', 'langchain_openai', 'google.genai', 'langchain_google_genai',\n"
        "         'langchain', 'langchain_core', 'langgraph', 'mcp', 'fastmcp'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# -- JSON in text ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"a": 1}', {"a": 1}),
        (" [1, 2]\n", [1, 2]),
        ('```json\n{"a": 1}\n```', {"a": 1}),
        ('```\n{"a": 1}\n```', {"a": 1}),
        ('Words [1] first.\n```JSON\r\n{"a": 1}\r\n```\nand after {"b": 2}', {"a": 1}),
        ('The answer is {"a": {"b": [1, {}]}}, I think.', {"a": {"b": [1, {}]}}),
        ('Result: ["x", "y"] done', ["x", "y"]),
        ("Numbers: [1, 2, 3].", [1, 2, 3]),
        ('see [1] and [2]: {"a": 1}', {"a": 1}),
        ('[12:03:44] started\n[12:03:45] {"a": 1}', {"a": 1}),
        ('{not json} {"a": 1}', {"a": 1}),
        ('{"broken": {"a": 1}, oops', {"a": 1}),
        ('{"a": "line\nbreak"}', {"a": "line\nbreak"}),
        ('{"a": "} ] \\" {"} tail', {"a": '} ] " {'}),
        ('{"a": 1} {"b": 2}', {"a": 1}),
        ('```python\nx = {}\n```\n{"a": 1}', {"a": 1}),
        ("{" * 5000 + '{"a": 1}', {"a": 1}),
        ("[" + "9" * 5000 + '] {"a": 1}', {"a": 1}),
    ],
)
def test_json_is_found_bare_fenced_or_in_prose(text, value):
    assert find_json(text) == value


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no JSON here",
        "42",
        '"text"',
        "{a: 1}",
        "[    0.000000] Linux version 6.1",
        "as shown in [1] and [2, 3] there",
        "int main(int argc, char *argv[]) {}",
        '{"cut": "off',
        "```json\nnot json\n```",
    ],
)
def test_what_is_no_json_is_not_taken_for_it(text):
    with pytest.raises(ValueError, match="no JSON"):
        find_json(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"a": 1}', {"a": 1}),
        (" \n[1, 2]\n", [1, 2]),
        ("{}", {}),
        ('```json\n{"a": 1}\n```\n', {"a": 1}),
        ('```\r\n{"a": "```"}\r\n```', {"a": "```"}),
        ('````JSON\n["x"]\n````', ["x"]),
    ],
)
def test_a_text_that_is_json_as_a_whole_or_in_its_only_fence_is_json(text, value):
    assert whole_json(text) == value


@pytest.mark.parametrize(
    "text",
    [
        "",
        "42",
        "true",
        '"text"',
        'CMD ["/bin/busybox"] starts the shell',
        'The answer: {"a": 1}',
        '{"a": 1} is the answer',
        '{"a": 1}\n{"b": 2}',
        'Words.\n```json\n{"a": 1}\n```',
        '```json\n{"a": 1}\n```\nWords.',
        '```json\n{"a": 1}\n```\n```json\n{"b": 2}\n```',
        "```python\n{}\n```",
        '{"cut": "off',
        "[" * 100_000,
    ],
)
def test_json_with_words_around_it_is_text(text):
    with pytest.raises(ValueError, match="not a JSON"):
        whole_json(text)


HOSTILE = ["{", "[", '{"', '["[",', "[1,", '{"a":', '["a\\"', "[1] ", "```json\n", "[1, x]\n", " "]


@pytest.mark.parametrize("unit", HOSTILE)
def test_the_time_grows_no_faster_than_the_text(unit):
    def seconds(size: int) -> float:
        text = "```[" + unit * (size // len(unit))
        started = time.process_time()
        with pytest.raises(ValueError, match="no JSON"):
            find_json(text)
        return time.process_time() - started

    small = min(seconds(50_000) for _ in range(3))
    # Twenty times the text: quadratic growth would be 400 times the time.
    assert seconds(1_000_000) < 150 * max(small, 0.002)


# -- the scripted model ----------------------------------------------------------------------------


async def test_the_scripted_model_streams_calls_tools_and_counts():
    model = ScriptedModel(["one two", Reply(tool_calls=[("free_nodes", {"partition": "p"})])])
    assert [chunk.text async for chunk in model.astream(QUESTION) if chunk.text] == ["one ", "two"]
    message = await model.bind_tools([free_nodes]).ainvoke(QUESTION)
    assert message.tool_calls[0]["args"] == {"partition": "p"}
    assert message.usage_metadata["input_tokens"] == 5
    assert model.options[1]["tools"][0]["function"]["name"] == "free_nodes"
    assert [request[0].text for request in model.requests] == ["How many nodes are free?"] * 2


async def test_the_scripted_model_gives_structured_output():
    class Count(BaseModel):
        nodes: int

    model = ScriptedModel([Reply(data={"nodes": 4}), Reply(data={"nodes": 5}), "no"])
    assert await model.with_structured_output(Count).ainvoke(QUESTION) == Count(nodes=4)
    raw = await model.with_structured_output(SCHEMA, include_raw=True).ainvoke(QUESTION)
    assert raw["parsed"] == {"nodes": 5}
    assert isinstance(raw["raw"], AIMessage)
    assert raw["parsing_error"] is None
    bad = model.with_structured_output(Count, include_raw=True).invoke(QUESTION)
    assert bad["parsed"] is None
    assert bad["parsing_error"] is not None


async def test_a_script_may_be_a_function_of_what_was_asked():
    model = ScriptedModel(lambda messages: messages[-1].text.upper())
    assert model.invoke("hello").text == "HELLO"
    assert "".join(chunk.text for chunk in model.stream("hello")) == "HELLO"


async def test_a_scripted_model_that_is_asked_too_often_says_so():
    model = ScriptedModel(["one"])
    models = Models(Settings(), given=model)
    await models.ask(QUESTION)
    with pytest.raises(ModelError, match="no reply left after 1"):
        await models.ask(QUESTION)
