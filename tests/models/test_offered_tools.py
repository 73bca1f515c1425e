"""What a model is shown of a run's tools and of their answers, against OpenAI's own checks."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage

from fractale.models import Models
from fractale.models.client import for_model
from fractale.models.tool_schemas import wire_names, wire_schema
from fractale.policy import Policy
from fractale.questions import Answers
from fractale.runs import RunOptions, Runs
from fractale.testing import FakeToolServer, ModelServer, Reply, ScriptedModel
from fractale.testing.quirks import refusal_of_tools
from fractale.toolbox import ToolResult

AGENT = """
name: p
steps: [{name: s, type: agent, instruction: Look}]
outputs: {a: "{{ steps.s.outputs.content }}"}
"""
READS = {"readOnlyHint": True}
OBJECT = {"type": "object", "properties": {}}
NAMES = {"a": {"type": "string"}}
COUNT = {"b": {"type": "integer"}}


def tools_with(*names: str, schema: Any = OBJECT) -> FakeToolServer:
    server = FakeToolServer()
    for name in names:
        server.describe(name, input_schema=schema, annotations=READS)
        server.answer(name, {"ran": name})
    return server


def calling(name: str) -> list[Reply | str]:
    return [Reply(tool_calls=[(name, {})]), "Done."]


@pytest.fixture
def ask(run_plan, settings) -> Callable[..., Any]:
    """Run one agent step against a server with OpenAI's checks."""

    async def run(tools: FakeToolServer, script: Any) -> Any:
        with ModelServer(script, strict=True) as server:
            given = replace(
                settings,
                provider="openai",
                model="openai:scripted",
                openai_base_url=server.openai_url,
                openai_api_key="k-1234567890",
            )
            seen = await run_plan(AGENT, tools=tools, settings=given)
            return seen, server.requests

    return run


# -- names -----------------------------------------------------------------------------------------

ODD_NAMES = [
    "look",
    "a.b.c",
    "files/read.all",
    "with space",
    "sl/ash",
    "größe",
    "co:lon",
    "x" * 70,
    "3d",
    "-dash",
    "日本",
    "a@b",
]


@pytest.mark.parametrize("name", ODD_NAMES)
async def test_a_tool_of_any_name_is_called_by_its_own(ask, name):
    tools = tools_with(name)
    seen, requests = await ask(tools, calling(wire_names([name])[name]))
    assert seen.status == "success", seen.result.error
    assert [call.name for call in tools.calls] == [name]
    assert f'"ran": "{name}"' in json.dumps(requests[1].body, ensure_ascii=False).replace("\\", "")


@pytest.mark.parametrize(
    "names",
    [
        ["dot.ted", "dot__ted"],
        ["a b", "a_b", "a/b"],
        ["größe", "gräße"],
        [f"{'x' * 66}1", f"{'x' * 66}2"],
    ],
)
async def test_two_names_never_become_one(ask, names):
    tools = tools_with(*names)
    shown = wire_names(names)
    calls = Reply(tool_calls=[(shown[name], {}) for name in names])
    seen, _ = await ask(tools, [calls, "Done."])
    assert seen.status == "success", seen.result.error
    assert sorted(call.name for call in tools.calls) == sorted(names)


async def test_a_tool_named_as_one_of_fractales_own_is_there_beside_it(ask):
    tools = tools_with("ask_person")
    seen, requests = await ask(tools, calling("fake__ask_person"))
    assert seen.status == "success", seen.result.error
    assert [call.name for call in tools.calls] == ["ask_person"]
    names = [t["function"]["name"] for t in requests[0].body["tools"]]
    assert {"ask_person", "fake__ask_person"} <= set(names)


def test_a_name_that_is_accepted_stays_and_another_is_the_same_in_every_list():
    assert wire_names(["look", "beta.quota"]) == {"look": "look", "beta.quota": "beta__quota"}
    assert wire_names(["a.b", "a__b"])["a__b"] == "a__b"
    assert wire_names(["x" * 70, "y"])["x" * 70] == wire_names(["x" * 70])["x" * 70]


# -- schemas ---------------------------------------------------------------------------------------

ONE_OF = [{"properties": NAMES, "required": ["a"]}, {"properties": COUNT, "required": ["b"]}]
BOTH_SAYS = {"anyOf": [{"type": "string"}, {"type": "integer"}]}
ODD_SCHEMAS: dict[str, tuple[Any, Any]] = {
    "nothing": ({}, {}),
    "no properties": ({"type": "object"}, {}),
    "properties are null": ({"type": "object", "properties": None}, {}),
    "an array without items": (
        {"type": "object", "properties": {"l": {"type": "array"}}},
        {"l": {"type": "array", "items": {}}},
    ),
    "a tuple": (
        {"type": "object", "properties": {"l": {"type": "array", "prefixItems": [{}, {}]}}},
        {"l": {"type": "array", "prefixItems": [{}, {}], "items": {}}},
    ),
    "a tuple of older drafts": (
        {"type": "object", "properties": {"l": {"type": "array", "items": [NAMES["a"]]}}},
        {"l": {"type": "array", "items": {"anyOf": [NAMES["a"]]}}},
    ),
    "an array deep inside": (
        {
            "type": "object",
            "properties": {"l": {"anyOf": [{"type": "array"}, {"type": "null"}]}},
        },
        {"l": {"anyOf": [{"type": "array", "items": {}}, {"type": "null"}]}},
    ),
    "anyOf at the top": ({"type": "object", "anyOf": ONE_OF}, {**NAMES, **COUNT}),
    "oneOf at the top": ({"oneOf": ONE_OF}, {**NAMES, **COUNT}),
    "allOf at the top": (
        {"allOf": [{"$ref": "#/$defs/A"}, ONE_OF[1]], "$defs": {"A": ONE_OF[0]}},
        {**NAMES, **COUNT},
    ),
    "choices of one argument": (
        {"oneOf": [{"properties": {"a": v}} for v in BOTH_SAYS["anyOf"]]},
        {"a": BOTH_SAYS},
    ),
    "if and not at the top": (
        {"type": "object", "properties": NAMES, "not": {}, "if": {}, "then": {}},
        NAMES,
    ),
    "a reference at the top": ({"$ref": "#/$defs/A", "$defs": {"A": ONE_OF[0]}}, NAMES),
    "a reference to itself": ({"$ref": "#/$defs/A", "$defs": {"A": {"$ref": "#/$defs/A"}}}, {}),
    "a reference to elsewhere": (
        {"type": "object", "properties": {"x": {"$ref": "http://127.0.0.1:9/s.json"}}},
        {"x": {}},
    ),
    "a reference to nothing": (
        {"type": "object", "properties": {"x": {"$ref": "#/$defs/none"}}},
        {"x": {}},
    ),
    "a reference to the whole": (
        {"type": "object", "properties": {"x": {"$ref": "#"}}},
        {"x": {}},
    ),
    "booleans for schemas": (
        {"type": "object", "properties": {"x": True, "y": False}},
        {"x": {}},
    ),
    "a type that is none": ({"type": "object", "properties": {"x": {"type": "any"}}}, {"x": {}}),
    "null or an object": ({"type": ["object", "null"], "properties": NAMES}, NAMES),
    "an identity": ({"$id": "http://h/s", "$schema": "s", **OBJECT}, {}),
}


@pytest.mark.parametrize("which", ODD_SCHEMAS)
async def test_a_tool_of_any_schema_fits_and_breaks_no_step(ask, which):
    schema, properties = ODD_SCHEMAS[which]
    tools = tools_with("odd", schema=schema)
    seen, requests = await ask(tools, calling("odd"))
    assert seen.status == "success", seen.result.error
    assert [call.name for call in tools.calls] == ["odd"]
    shown = {t["function"]["name"]: t["function"] for t in requests[0].body["tools"]}
    assert shown["odd"]["parameters"]["properties"] == properties


def test_what_every_choice_needs_is_required_and_the_choice_is_in_words():
    both = [{"required": ["a", "c"]}, {"required": ["b", "c"]}]
    made = wire_schema({"anyOf": both})
    assert made["required"] == ["c"]
    assert made["description"] == "Give one of: a, c; or b, c."
    assert wire_schema({"allOf": both})["required"] == ["a", "b", "c"]


def test_a_schema_that_is_recursive_or_deep_ends():
    tree = {"type": "object", "properties": {"next": {"$ref": "#/$defs/T"}}}
    assert wire_schema({"$ref": "#/$defs/T", "$defs": {"T": tree}})["properties"] == {
        "next": {"$ref": "#/$defs/T"}
    }
    deep: Any = {"type": "array"}
    for _ in range(500):
        deep = {"type": "array", "items": deep}
    made = wire_schema({"type": "object", "properties": {"x": deep}})
    assert len(json.dumps(made)) < 5_000


async def test_a_tool_whose_arguments_are_no_object_is_left_out_with_a_warning(ask):
    tools = tools_with("good")
    tools.describe("bad", input_schema={"type": "string"})
    seen, requests = await ask(tools, calling("good"))
    assert seen.status == "success"
    assert "bad" not in [t["function"]["name"] for t in requests[0].body["tools"]]
    [warning] = [w for w in seen.of("warning") if w["code"] == "tool-left-out"]
    assert "the tool `bad` of the server fake is not shown to the model" in warning["message"]
    assert "not an object but string" in warning["message"]


async def test_more_tools_than_a_model_takes_are_left_out_with_a_warning(ask):
    tools = tools_with(*(f"t{i}" for i in range(306)))
    seen, requests = await ask(tools, calling("t0"))
    assert seen.status == "success"
    names = [t["function"]["name"] for t in requests[0].body["tools"]]
    assert len(names) <= 128
    assert "ask_person" in names
    [warning] = [w for w in seen.of("warning") if w["code"] == "tools-left-out"]
    assert "tools are not shown to the model, which takes 128" in warning["message"]
    assert "`t305`" not in names
    assert "(fake)" in warning["message"]
    assert "name those that the step needs in `tools`" in warning["message"]


@pytest.mark.parametrize(
    ("schema", "says"),
    [
        ({"type": "object"}, "missing properties"),
        ({"type": "object", "properties": {"l": {"type": "array"}}}, "missing items"),
        ({**OBJECT, "anyOf": []}, "top level"),
    ],
)
def test_the_scripted_server_has_openais_checks(schema, says):
    tool = {"function": {"name": "t", "parameters": schema}}
    assert says in (refusal_of_tools([tool]) or "")
    assert refusal_of_tools([{"function": {"name": "t", "parameters": OBJECT}}]) is None


# -- answers ---------------------------------------------------------------------------------------


def seen_by(model: ScriptedModel) -> Any:
    """What the last request of a model tells of the tool's answer."""
    return next(m for m in reversed(model.requests[-1]) if isinstance(m, ToolMessage))


async def answer_of(run_plan: Any, result: Any, **options: Any) -> tuple[Any, ScriptedModel]:
    tools = FakeToolServer()
    tools.describe("odd", annotations=READS).answer("odd", result)
    model = ScriptedModel(calling("odd"), **options)
    await run_plan(AGENT, tools=tools, model=model)
    return seen_by(model), model


@pytest.mark.parametrize(
    ("result", "text"),
    [
        (ToolResult(text="plain"), "plain"),
        (ToolResult(text="", structured={"a": 1}), '{"a": 1}'),
        (ToolResult(text='{"a":1}', structured={"a": 1}), '{"a":1}'),
        (ToolResult(text="4", structured={"result": 4}), "4"),
        (ToolResult(text="two", structured={"result": "two"}), "two"),
        (ToolResult(text="Two files.", structured={"n": 2}), 'Two files.\n{"n": 2}'),
        (ToolResult(text="no disk", is_error=True), "Error: no disk"),
        (
            ToolResult(text="no disk", structured={"code": 5}, is_error=True),
            'Error: no disk\n{"code": 5}',
        ),
        (
            ToolResult(text="", is_error=True),
            "Error: the tool reported an error and said nothing",
        ),
    ],
)
async def test_a_model_is_told_all_that_a_tool_says_and_whether_it_failed(run_plan, result, text):
    message, _ = await answer_of(run_plan, result)
    assert message.content == text


PNG = base64.b64encode(b"\x89PNG" + bytes(9_000)).decode()
PICTURE = ToolResult(
    text="A plot.",
    content=(
        {"type": "text", "text": "A plot."},
        {"type": "image", "data": PNG, "mimeType": "image/png"},
    ),
)


async def test_an_image_reaches_a_model_that_sees(run_plan):
    tools = FakeToolServer()
    tools.describe("plot", annotations=READS).answer("plot", PICTURE)
    model = ScriptedModel(calling("plot"), image_inputs=True)
    await run_plan(AGENT, tools=tools, model=model)
    *_, answer, images = model.requests[-1]
    assert answer.content.startswith("A plot.\n[image/png, 9,004 bytes, ")
    assert images.content[1] == {"type": "image", "base64": PNG, "mime_type": "image/png"}


async def test_a_model_that_sees_no_images_is_told_that_there_is_one(run_plan):
    message, _ = await answer_of(run_plan, PICTURE)
    assert message.content.startswith("A plot.\n[image/png, 9,004 bytes, ")


def test_images_follow_all_the_answers_of_a_turn():
    image = {"type": "image", "base64": PNG, "mime_type": "image/png"}
    one = ToolMessage([{"type": "text", "text": "one"}, image], tool_call_id="1")
    two = ToolMessage("two", tool_call_id="2")
    messages = [HumanMessage("go"), one, two, AIMessage("done")]
    kinds = [m.type for m in for_model(messages, {"image_inputs": True})]
    assert kinds == ["human", "tool", "tool", "human", "ai"]
    blind = for_model(messages, {})
    assert [m.type for m in blind] == ["human", "tool", "tool", "ai"]
    assert blind[1].content == "one"


LOG = "\n".join(
    [
        "begin of the log",
        *(f"step {i} energy {-i / 7:.3f}" for i in range(100_000)),
        "ERROR: Lost atoms: original 32000 current 31998",
        *(f"step {i} energy {-i / 7:.3f}" for i in range(100_000, 150_000)),
        "end of the log",
    ]
)


def reading(seen: list[str]) -> Callable[[list[Any]], Reply | str]:
    """A model that reads a log, then looks for the error, then reads around it."""

    def say(messages: list[Any]) -> Reply | str:
        answers = [m for m in messages if isinstance(m, ToolMessage)]
        if not answers:
            return Reply(tool_calls=[("log", {})])
        seen.append(answers[-1].text)
        name = answers[0].text.split('kept as result "')[1][:8]
        if len(answers) == 1:
            return Reply(tool_calls=[("read_result", {"result": name, "search": "^error"})])
        if len(answers) == 2:
            offset = int(answers[1].text.splitlines()[1].split(":")[0])
            return Reply(tool_calls=[("read_result", {"result": name, "offset": offset - 100})])
        return "Atoms were lost."

    return say


async def test_of_a_long_result_both_ends_are_shown_and_the_rest_can_be_searched(run_plan):
    tools = FakeToolServer()
    tools.describe("log", annotations=READS).answer("log", LOG)
    seen: list[str] = []
    model = ScriptedModel(reading(seen))
    ran = await run_plan(AGENT, tools=tools, model=model)
    assert ran.result.outputs == {"a": "Atoms were lost."}
    shown, found, around = seen
    assert shown.startswith("begin of the log")
    assert shown.endswith("end of the log")
    assert len(shown) < 25_000 < len(LOG)
    assert f"of {len(LOG)} characters are left out here" in shown
    assert found.splitlines()[1].endswith("ERROR: Lost atoms: original 32000 current 31998")
    assert "step 99999 energy" in around
    assert "ERROR: Lost atoms" in around
    assert len(around) < 9_000
    assert "read_result" not in str(model.options[0]["tools"]), "it costs nothing before"
    assert "read_result" in str(model.options[1]["tools"])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"result": "00000000"}, "no result"),
        ({"search": "((("}, "not a regular expression"),
        ({"search": "(a+)+$b"}, "matches"),
        ({"search": "nothing like it"}, "nothing in the"),
        ({"offset": 10**9}, "`offset` must be from 0 to"),
    ],
)
async def test_a_wrong_search_says_what_is_wrong(run_plan, arguments, says):
    tools = FakeToolServer()
    tools.describe("log", annotations=READS).answer("log", LOG[:200_000])
    seen: list[str] = []

    def say(messages: list[Any]) -> Reply | str:
        answers = [m.text for m in messages if isinstance(m, ToolMessage)]
        if not answers:
            return Reply(tool_calls=[("log", {})])
        seen.append(answers[-1])
        name = answers[0].split('kept as result "')[1][:8]
        if len(answers) == 1:
            return Reply(tool_calls=[("read_result", {"result": name, **arguments})])
        return "done"

    await run_plan(AGENT, tools=tools, model=ScriptedModel(say))
    assert says in seen[1]


async def test_a_long_result_can_be_read_after_a_resume_in_another_process(run_plan, settings):
    """The question ends the first process; the second one knows nothing but the state folder."""
    tools = FakeToolServer()
    tools.describe("log", annotations=READS).answer("log", LOG)
    seen: list[str] = []
    read = reading(seen)

    def asks_first(messages: list[Any]) -> Reply | str:
        answers = [m for m in messages if isinstance(m, ToolMessage)]
        if len(answers) == 1:
            return Reply(tool_calls=[("ask_person", {"question": "Go on?"})])
        return read([m for m in messages if getattr(m, "name", "") != "ask_person"])

    waits = await run_plan(AGENT, tools=tools, model=ScriptedModel(asks_first), keep=True)
    assert waits.status == "waiting"
    other = Runs(
        settings,
        tools,
        models=Models(settings, given=ScriptedModel(asks_first)),
        policy=Policy(settings=settings.policy),
    )
    result = await other.resume(waits.result.run, RunOptions(answers=Answers({"s": "yes"})))
    assert result.outputs == {"a": "Atoms were lost."}
    assert len(tools.calls) == 1
