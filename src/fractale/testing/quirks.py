"""Deviations of real model servers from OpenAI's protocol, by name.

Pass the names to a `Reply`, or to a `ModelServer` for all of its replies::

    ModelServer([Reply(tool_calls=[("remove", {"path": "/a"})], quirks=["cut-arguments"]), "Done"])

Quirks of the text are for both protocols and for `ScriptedModel`; those of the protocol are for
OpenAI's, which vLLM, Ollama, llama.cpp and gateways speak.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from fractale.testing.replies import Reply, arguments_as_text

Json = dict[str, Any]

THOUGHT = 'Perhaps {"nodes": 99}, or {"success": true, "reason": "fine"}? No.'
"""A model's thoughts: JSON that is not its answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quirk:
    """One deviation of a server.

    Args:
        about: The deviation, and the servers that have it.
        reply: Changes the reply's text.
        answer: Changes a whole ``chat.completion``.
        events: Changes the ``chat.completion.chunk`` events of a stream.
        error: Changes the body of an error.
        one_body: Whether a request for a stream is answered by one body.
    """

    about: str
    reply: Callable[[Reply], Reply] | None = None
    answer: Callable[[Json], Json] | None = None
    events: Callable[[list[Json]], list[Json]] | None = None
    error: Callable[[Json], Any] | None = None
    one_body: bool = False

    @property
    def is_of_text(self) -> bool:
        """Whether it changes the reply's text only."""
        return self.reply is not None


def quirks_of(names: Iterable[str]) -> list[Quirk]:
    """The quirks of some names.

    Raises:
        ValueError: A name is not the name of a quirk.
    """
    unknown = [name for name in names if name not in QUIRKS]
    if unknown:
        raise ValueError(f"no quirk is called {unknown[0]!r}; there are: {', '.join(QUIRKS)}")
    return [QUIRKS[name] for name in names]


def with_quirks_of_text(reply: Reply) -> Reply:
    """The reply after the quirks of its text."""
    for quirk in quirks_of(reply.quirks):
        if quirk.reply is not None:
            reply = quirk.reply(reply)
    return reply


# -- of the text -----------------------------------------------------------------------------------


def _before_text(before: str, after: str = "") -> Callable[[Reply], Reply]:
    """A function that adds thoughts; a reply without a text, such as an error, has none."""

    def change(reply: Reply) -> Reply:
        if reply.status != 200:
            return reply
        return replace(reply, text=f"{before}{reply.said}{after}", data=None)

    return change


def _only_thoughts(reply: Reply) -> Reply:
    return replace(reply, text=f"<think>\n{THOUGHT}", data=None, tool_calls=())


def _cut_arguments(reply: Reply) -> Reply:
    *others, (name, arguments) = reply.tool_calls or [("", {})]
    if not name:
        return reply
    text = arguments_as_text(arguments)
    cut = text[: max(1, len(text) - 4)]  # within the last value, if there is one
    return replace(reply, tool_calls=[*others, (name, cut)])


def _cut_character(reply: Reply) -> Reply:
    return replace(reply, text=f"{reply.said}\ud83d", data=None)


def _as_text(write: Callable[[str, Any], str]) -> Callable[[Reply], Reply]:
    def change(reply: Reply) -> Reply:
        if not reply.tool_calls:
            return reply
        texts = [write(name, arguments) for name, arguments in reply.tool_calls]
        return replace(
            reply, text="\n".join([reply.said, *texts]).strip(), data=None, tool_calls=()
        )

    return change


def _hermes(name: str, arguments: Any) -> str:
    call = json.dumps({"name": name, "arguments": arguments})
    return f"<tool_call>\n{call}\n</tool_call>"


def _qwen(name: str, arguments: Any) -> str:
    values = "".join(f"<parameter={k}>\n{v}\n</parameter>\n" for k, v in arguments.items())
    return f"<tool_call>\n<function={name}>\n{values}</function>\n</tool_call>"


def _mistral(name: str, arguments: Any) -> str:
    return f"[TOOL_CALLS]{json.dumps([{'name': name, 'arguments': arguments}])}"


def _llama(name: str, arguments: Any) -> str:
    return f"<|python_tag|>{json.dumps({'name': name, 'parameters': arguments})}"


def _bare(name: str, arguments: Any) -> str:
    return json.dumps({"name": name, "parameters": arguments})


def _commentary(name: str, arguments: Any) -> str:
    text = arguments_as_text(arguments)
    head = f"<|channel|>commentary to=functions.{name} <|constrain|>json<|message|>"
    return f"<|channel|>analysis<|message|>{THOUGHT}<|end|><|start|>assistant{head}{text}<|call|>"


# -- of the protocol -------------------------------------------------------------------------------


def _messages(body: Json) -> list[Json]:
    return [
        part for choice in body["choices"] if (part := choice.get("message") or choice.get("delta"))
    ]


def _each_call(change: Callable[[Json], Json]) -> Callable[[Json], Json]:
    def changed(body: Json) -> Json:
        for message in _messages(body):
            if message.get("tool_calls"):
                message["tool_calls"] = [change(call) for call in message["tool_calls"]]
        return body

    return changed


def _each_message(change: Callable[[Json], None]) -> Callable[[Json], Json]:
    def changed(body: Json) -> Json:
        for message in _messages(body):
            change(message)
        return body

    return changed


def _each_event(change: Callable[[Json], Json]) -> Callable[[list[Json]], list[Json]]:
    return lambda events: [change(event) for event in events]


def _with_id(value: str | None) -> Callable[[Json], Json]:
    return _each_call(lambda call: {**call, "id": value})


def _object_arguments(call: Json) -> Json:
    function = call["function"]
    try:
        arguments = json.loads(function["arguments"])
    except ValueError:
        return call
    return {**call, "function": {**function, "arguments": arguments}}


def _in_pieces(
    first: Callable[[Json], Json], later: Callable[[Json, Json], Json]
) -> Callable[[list[Json]], list[Json]]:
    """The arguments of each call in several events.

    Args:
        first: Makes the first piece of a call, from the whole call.
        later: Makes another piece, from the whole call and the piece as OpenAI sends it.
    """

    def changed(events: list[Json]) -> list[Json]:
        made: list[Json] = []
        for event in events:
            calls: list[Json] = [c for m in _messages(event) for c in m.get("tool_calls") or ()]
            if not calls:
                made.append(event)
            for call in calls:
                pieces = [first(call), *(later(call, piece) for piece in _pieces(call))]
                made += [_with_calls(event, [piece]) for piece in pieces]
        return made

    return changed


def _pieces(call: Json) -> list[Json]:
    text, index = call["function"]["arguments"], call["index"]
    starts = range(0, len(text), 7)
    return [{"index": index, "function": {"arguments": text[i : i + 7]}} for i in starts]


def _with_calls(event: Json, calls: list[Json]) -> Json:
    choices = [{**c, "delta": {**c["delta"], "tool_calls": calls}} for c in event["choices"]]
    return {**event, "choices": choices}


def _opening(call: Json) -> Json:
    return {**call, "function": {**call["function"], "arguments": ""}}


def _without_index(_call: Json, piece: Json) -> Json:
    return {"function": piece["function"]}


def _with_name(call: Json, piece: Json) -> Json:
    function = {**piece["function"], "name": call["function"]["name"]}
    return {**piece, "function": function}


def _usage_in_each(events: list[Json]) -> list[Json]:
    """The usage so far, in each event: all input tokens, and the output tokens so far."""
    total: Any = next((e["usage"] for e in reversed(events) if e.get("usage")), None)
    if total is None:
        return events
    parts = [e for e in events if e["choices"]]
    for number, event in enumerate(parts, 1):
        outputs = total["completion_tokens"] * number // len(parts)
        event["usage"] = {
            "prompt_tokens": total["prompt_tokens"],
            "completion_tokens": outputs,
            "total_tokens": total["prompt_tokens"] + outputs,
        }
    return events


def _null_delta(events: list[Json]) -> list[Json]:
    for event in events:
        for choice in event["choices"]:
            if choice["finish_reason"]:
                choice["delta"] = None
    return events


def _parts(message: Json) -> None:
    if isinstance(message.get("content"), str):
        message["content"] = [{"type": "text", "text": message["content"]}]


def _refusal(message: Json) -> None:
    message["refusal"], message["content"] = message.get("content"), None


def _error_text(body: Json) -> Json:
    return {"error": body["error"]["message"]}


def _error_list(body: Json) -> list[Json]:
    return [body]


def _error_detail(body: Json) -> Json:
    return {"detail": body["error"]["message"]}


def _error_details(body: Json) -> Json:
    return {"detail": [{"loc": ["body", "tools"], "msg": body["error"]["message"]}]}


QUIRKS: Mapping[str, Quirk] = {
    "think": Quirk(
        about="thoughts in <think> before the answer: reasoning models without a parser",
        reply=_before_text(f"<think>\n{THOUGHT}\n</think>\n\n"),
    ),
    "think-unopened": Quirk(
        about="thoughts with an end mark only: their template opens them in the prompt",
        reply=_before_text(f"{THOUGHT}\n</think>\n\n"),
    ),
    "think-fenced": Quirk(
        about="thoughts that hold a fenced block",
        reply=_before_text(f"<think>\n```json\n{THOUGHT[8:21]}\n```\n</think>\n"),
    ),
    "think-brackets": Quirk(
        about="thoughts of Magistral", reply=_before_text(f"[THINK]{THOUGHT}[/THINK]")
    ),
    "think-channels": Quirk(
        about="thoughts and answer in the channels of gpt-oss",
        reply=_before_text(
            f"<|channel|>analysis<|message|>{THOUGHT}<|end|>"
            "<|start|>assistant<|channel|>final<|message|>",
            "<|return|>",
        ),
    ),
    "think-only": Quirk(about="thoughts without an end, and no answer", reply=_only_thoughts),
    "cut-arguments": Quirk(
        about="the last call's arguments are cut off, and the end says `tool_calls`: vLLM",
        reply=_cut_arguments,
    ),
    "cut-character": Quirk(about="the text ends within an emoji", reply=_cut_character),
    "call-as-hermes": Quirk(about="calls as text: vLLM without a parser", reply=_as_text(_hermes)),
    "call-as-qwen": Quirk(about="calls as text of Qwen 3 Coder", reply=_as_text(_qwen)),
    "call-as-mistral": Quirk(about="calls as text of Mistral", reply=_as_text(_mistral)),
    "call-as-llama": Quirk(about="calls as text of Llama", reply=_as_text(_llama)),
    "call-as-json": Quirk(about="calls as text, JSON only", reply=_as_text(_bare)),
    "call-as-channel": Quirk(about="calls as text of gpt-oss", reply=_as_text(_commentary)),
    "null-id": Quirk(
        about="calls without an id",
        answer=_with_id(None),
        events=_each_event(_with_id(None)),
    ),
    "empty-id": Quirk(
        about="calls with an empty id", answer=_with_id(""), events=_each_event(_with_id(""))
    ),
    "pieces": Quirk(
        about="arguments in several pieces, as OpenAI streams them",
        events=_in_pieces(_opening, lambda _call, piece: piece),
    ),
    "no-index": Quirk(
        about="later pieces of a call have no index", events=_in_pieces(_opening, _without_index)
    ),
    "name-repeated": Quirk(
        about="each piece of a call has its name", events=_in_pieces(_opening, _with_name)
    ),
    "object-arguments": Quirk(
        about="arguments as an object: llama.cpp",
        answer=_each_call(_object_arguments),
        events=_each_event(_each_call(_object_arguments)),
    ),
    "content-parts": Quirk(
        about="the content as a list of parts",
        answer=_each_message(_parts),
        events=_each_event(_each_message(_parts)),
    ),
    "null-delta": Quirk(about="the last delta is null", events=_null_delta),
    "usage-in-each": Quirk(
        about="usage so far in each chunk: vLLM's continuous_usage_stats", events=_usage_in_each
    ),
    "one-body": Quirk(about="a request for a stream is answered by one body", one_body=True),
    "refusal": Quirk(
        about="the text is a refusal",
        answer=_each_message(_refusal),
        events=_each_event(_each_message(_refusal)),
    ),
    "error-text": Quirk(about="a fault's words as text: Ollama", error=_error_text),
    "error-list": Quirk(about="a fault in a list: Gemini's OpenAI endpoint", error=_error_list),
    "error-detail": Quirk(about="a fault's words in `detail`: FastAPI", error=_error_detail),
    "error-details": Quirk(about="a fault's words in a list: FastAPI", error=_error_details),
}


# -- OpenAI's checks -------------------------------------------------------------------------------

MOST_TOOLS = 128


def refusal_of_tools(tools: Sequence[Mapping[str, Any]]) -> str | None:
    """Why OpenAI refuses a request with these tools, with its own message; None if it does not."""
    if len(tools) > MOST_TOOLS:
        return f"Invalid 'tools': array too long. Expected at most 128, got {len(tools)}."
    names = [str(tool["function"]["name"]) for tool in tools]
    for number, name in enumerate(names):
        if not re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", name):
            return f"Invalid 'tools[{number}].function.name': string does not match pattern."
    if len(set(names)) < len(names):
        return "Tool names must be unique."
    for tool in tools:
        function = tool["function"]
        schema: Json = function.get("parameters") or {}
        if fault := _fault_at_top(schema) or _fault_in(schema):
            return f"Invalid schema for function '{function['name']}': {fault}."
    return None


def _fault_at_top(schema: Json) -> str | None:
    if schema.get("type") != "object":
        return f"schema must be of type 'object', got {schema.get('type')!r}"
    if "properties" not in schema:
        return "object schema missing properties"
    found = [k for k in ("oneOf", "anyOf", "allOf", "enum", "not") if k in schema]
    return f"schema must not have {found[0]!r} at the top level" if found else None


def _fault_in(schema: Any) -> str | None:
    if isinstance(schema, list):
        return next(filter(None, map(_fault_in, cast("list[Any]", schema))), None)
    if not isinstance(schema, dict):
        return None
    table = cast("Json", schema)
    if table.get("type") == "array" and not isinstance(table.get("items"), dict):
        return "array schema missing items"
    return _fault_in(list(table.values()))
