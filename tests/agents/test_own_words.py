"""What of a request to a model are fractale's own words, and what is the plan's."""

from __future__ import annotations

from importlib import resources
from typing import Any

from fractale.agents.own_words import JUDGE, given_of

PLANNER = resources.files("fractale.agents").joinpath("planner.md").read_text(encoding="utf-8")
ASK = resources.files("fractale.agents").joinpath("ask.md").read_text(encoding="utf-8")
SCHEMA = {"type": "object", "properties": {"time": {"type": "string"}}}


def given(system: str | None, asked: str = "Do it.", schema: Any = None) -> Any:
    said = [] if system is None else [{"type": "system", "content": system}]
    messages = [*said, {"type": "human", "content": asked}]
    return given_of({"messages": messages, "schema": schema, "tools": ["look"]})


def test_a_request_without_fractales_words_has_no_rest():
    assert given(None) is None
    assert given("You review scripts.") is None
    assert given(None, asked=PLANNER) is None


def test_the_planners_schema_is_fractales_own():
    assert given(PLANNER, schema=SCHEMA) == given(PLANNER, schema=None) is not None
    assert given(JUDGE, schema=SCHEMA) == given(JUDGE, schema=None) is not None


def test_an_answers_schema_is_the_plans():
    assert given(ASK, schema=SCHEMA) != given(ASK, schema=None)


def test_the_role_of_an_expert_the_task_and_the_tools_are_the_plans():
    assert given(f"You review scripts.\n\n{ASK}") != given(ASK)
    assert given(f"You review scripts.\n\n{ASK}") == given(f"{ASK.strip()}\n\nYou review scripts.")
    assert given(PLANNER, asked="Do this.") != given(PLANNER, asked="Do that.")
    assert given(ASK)["tools"] == ["look"]
