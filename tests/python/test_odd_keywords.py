"""Every parameter of every public function, given a value that it cannot have."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
from langgraph.graph import END, START, StateGraph
from typing_extensions import TypedDict

import fractale
from fractale import FractaleError, InputError, UsageError
from fractale.compose import GraphKeywords, _PlanGraphKeywords
from fractale.graph.plan_graph import PlanContext
from fractale.replaying.invocation import ReplayKeywords
from fractale.runs.invocation import RunKeywords
from fractale.settings import Settings

PLAN = """
name: p
inputs: {key: {type: string, secret: true}, nodes: {type: integer, default: 2}}
steps: [{name: s, tool: t, inputs: {n: "{{ inputs.nodes }}"}}]
outputs: {n: "{{ steps.s.outputs.n }}"}
"""


async def t(n: int) -> dict[str, int]:
    """A tool."""
    return {"n": n}


class Thing:
    """An object of no use."""


ODD: Mapping[str, Any] = {
    "int": 3,
    "bool": True,
    "str": "odd",
    "list": [3],
    "dict": {"odd": 3},
    "keys": {3: "odd"},
    "object": Thing(),
    "type": Thing,
}

KEYWORDS: Mapping[str, type[Any]] = {
    "areplay": ReplayKeywords,
    "replay": ReplayKeywords,
    "plan_graph": _PlanGraphKeywords,
    "as_node": GraphKeywords,
    "as_tool": GraphKeywords,
}
"""The functions whose keywords are not `RunKeywords`."""

FUNCTIONS = [
    name
    for name in fractale.__all__
    if inspect.isfunction(getattr(fractale, name))
    and name not in ("compile_plan", "initial_state", "load_settings")
    and "sweep" not in name  # tests/sweeps/test_sweep_python.py: each start has processes
]


def parameters(function: str) -> list[str]:
    known = inspect.signature(getattr(fractale, function)).parameters
    names = [name for name, each in known.items() if each.kind is not each.VAR_KEYWORD]
    if len(names) < len(known):
        names += KEYWORDS.get(function, RunKeywords).__annotations__
    return list(dict.fromkeys(names))


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Callable[[str], dict[str, Any]]:
    """The arguments of a call that works."""
    settings = replace(Settings(), state_dir=tmp_path_factory.mktemp("state"))
    done = fractale.run(
        PLAN, tools=[t], settings=settings, keep=True, secrets={"key": "k"}, yes=True
    )
    assert done.ok, done.error

    def arguments(function: str) -> dict[str, Any]:
        plain: dict[str, Any] = {
            "plan": PLAN,
            "run_id": done.run,
            "at": "s",
            "value": {},
            "settings": settings,
            "tools": [t],
            "secrets": {"key": "k"},
            "yes": True,
        }
        if "areplay".endswith(function) or "resume" in function:
            plain.pop("plan")
        if function in ("arun", "run", "astream", "stream"):
            plain.pop("run_id")
        return {name: plain[name] for name in parameters(function) if name in plain}

    return arguments


async def called(function: str, arguments: dict[str, Any]) -> Any:
    """Call a function, and do everything that it returned."""
    if function in TWINS:
        return await asyncio.to_thread(waited_for, function, arguments)
    found = getattr(fractale, function)(**arguments)
    if inspect.isasyncgen(found):
        return [each async for each in found]
    if inspect.isawaitable(found):
        return await found
    return await ran(function, found)


def waited_for(function: str, arguments: dict[str, Any]) -> Any:
    found = getattr(fractale, function)(**arguments)
    return list(found) if inspect.isgenerator(found) else found


async def ran(function: str, made: Any) -> Any:
    """Run what a function of `fractale.compose` has made."""
    if function == "plan_graph":
        return await made.ainvoke({"key": "k"}, {"configurable": {"thread_id": "1"}})
    if function == "as_tool":
        return await made.ainvoke({})
    if function == "as_node":
        builder = StateGraph(State).add_node("p", made)
        return await builder.add_edge(START, "p").add_edge("p", END).compile().ainvoke({"nodes": 3})
    return made


class State(TypedDict, total=False):
    nodes: int
    n: int


CASES = [(function, name) for function in FUNCTIONS for name in parameters(function)]


@pytest.mark.parametrize("function", FUNCTIONS)
async def test_the_call_works_without_an_odd_value(base, function):
    await called(function, base(function))


TWINS = {"run", "stream", "resume", "stream_resume", "fork", "replay", "cancel"}


@pytest.mark.parametrize(("function", "name"), CASES)
async def test_an_odd_value_is_an_error_that_names_it(base, function, name):
    raw: dict[str, str] = {}
    for kind, odd in ODD.items():
        try:
            await called(function, {**base(function), name: odd})
        except FractaleError as error:
            if not any(word in str(error) for word in (name, "odd", "3", "was not found")):
                raw[kind] = f"unnamed: {error}"
        except Exception as error:  # noqa: BLE001 - what is looked for
            raw[kind] = repr(error)
    assert raw == {}


@pytest.mark.parametrize("key", [*PlanContext.__annotations__, None])
@pytest.mark.parametrize("kind", ODD)
async def test_an_odd_value_in_the_context_of_a_graph_is_named(base, key, kind):
    graph = fractale.plan_graph(**base("plan_graph"))
    odd: Any = ODD[kind]
    context = odd if key is None else {key: odd}
    if context == {"yes": True}:
        return
    with pytest.raises(InputError) as caught:
        await graph.ainvoke({}, context=context)
    assert (key or "context") in str(caught.value) or "odd" in str(caught.value)


@pytest.mark.parametrize("odd", [3, "odd", [3], {"odd": 3}, Thing()])
async def test_an_odd_input_of_a_graph_is_named(base, odd):
    graph = fractale.plan_graph(**base("plan_graph"))
    with pytest.raises(InputError, match=r"input of the plan `p` is a mapping|has no input `odd`"):
        await graph.ainvoke(odd)


async def test_a_graph_that_cannot_wait_in_a_loop_names_the_way(base):
    graph = fractale.plan_graph(**base("plan_graph"))
    with pytest.raises(UsageError, match=r"`await graph\.ainvoke\(…\)`"):
        graph.invoke({})
    with pytest.raises(UsageError, match="running event loop"):
        next(graph.stream({}))


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"secrets": {"kay": "k"}}, "has no secret input `kay`; did you mean `key`?"),
        ({"secrets": {"nodes": "k"}}, "`nodes` is not secret: give it with the other inputs"),
        ({"secrets": {"key": 42}}, "the secret input `key` must be text, and is of the type int"),
        ({"limits": {"stepps": 3}}, "`limits` has no key `stepps`; did you mean `steps`?"),
        ({"limits": 3}, "`limits` cannot be the int `3`"),
        (
            {"tools": [3]},
            "`tools[0]` can't be served as a tool: TypeError: is int, which can't be called",
        ),
    ],
)
@pytest.mark.parametrize("function", ["arun", "plan_graph"])
async def test_a_message_says_what_to_do_next(base, function, keywords, message):
    with pytest.raises(FractaleError) as caught:
        await called(function, {**base(function), **keywords})
    assert message in f"{caught.value}; {caught.value.hint}"


async def test_limits_are_a_mapping_in_every_function(base):
    plan = (
        "{name: p, steps: [{name: a, tool: t, inputs: {n: 1}}, {name: b, tool: t, inputs: {n: 1}}]}"
    )
    known = {**base("arun"), "plan": plan, "secrets": None, "limits": {"steps": 1}}
    assert (await fractale.arun(**known)).status == "limit"


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"inputs": 3}, "`inputs` cannot be the int `3`"),
        ({"inputs": {"nodes": 3}}, '`inputs["nodes"]` cannot be the int `3`'),
        ({"inputs": lambda state: 3}, "the function `inputs` returned the int `3`"),
        ({"outputs": lambda result: [1]}, "the function `outputs` returned the list `[1]`"),
        ({"context": 3}, "`context` cannot be the int `3`"),
        ({"context": lambda context: 3}, "the context of a plan's graph is a mapping"),
    ],
)
async def test_a_node_names_what_it_cannot_use(base, keywords, message):
    with pytest.raises(FractaleError) as caught:
        await called("as_node", {**base("as_node"), **keywords})
    assert message in str(caught.value)


def test_a_plan_in_one_long_line_is_no_path():
    step = '{"name": "a", "set": {"text": "%s"}}' % ("x" * 300)
    assert fractale.validate(f'{{"name": "p", "steps": [{step}]}}') == []
