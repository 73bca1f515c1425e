"""Inputs of a plan: typed, or an error that names all that is wrong before anything runs."""

from __future__ import annotations

import pytest

import fractale
from fractale.errors import InputError
from fractale.plan.inputs import bind_inputs, read_secrets

PLAN = fractale.load(
    """
name: p
inputs:
  nodes: {type: integer, default: 1, minimum: 1, maximum: 8}
  name: job
  ratio: 0.5
  debug: false
  queue: {enum: [batch, debug], default: batch}
  script: {type: string, required: true, description: the script}
  token: {secret: true, required: true}
steps: [{name: s, tool: t}]
"""
)
GIVEN = {"script": "x.sh"}
SECRETS = {"token": "t"}


def test_defaults_fill_what_is_not_given():
    assert bind_inputs(PLAN, GIVEN, SECRETS) == {
        "nodes": 1,
        "name": "job",
        "ratio": 0.5,
        "debug": False,
        "queue": "batch",
        "script": "x.sh",
    }


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("nodes", "4", 4),
        ("ratio", "2", 2),
        ("debug", "yes", True),
        ("debug", "False", False),
        ("name", "4", "4"),
        ("queue", "debug", "debug"),
    ],
)
def test_texts_become_the_inputs_type(name, text, value):
    assert bind_inputs(PLAN, {**GIVEN, name: text}, SECRETS)[name] == value


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"nodes": "four"}, "must be of type integer"),
        ({"nodes": "1.5"}, "must be of type integer"),
        ({"nodes": True}, "must be of type integer"),
        ({"nodes": 0}, "at least 1"),
        ({"nodes": "9"}, "at most 8"),
        ({"queue": "long"}, "one of"),
        ({"debug": "maybe"}, "must be of type boolean"),
        ({"nods": 1}, "did you mean `nodes`"),
        ({"token": "abc"}, "FRACTALE_INPUT_TOKEN"),
    ],
)
def test_what_does_not_fit_is_an_error(given, says):
    with pytest.raises(InputError, match=says):
        bind_inputs(PLAN, {**GIVEN, **given}, SECRETS)


def test_all_that_is_wrong_is_told_at_once():
    with pytest.raises(InputError) as caught:
        bind_inputs(PLAN, {"nodes": "x", "nme": 1})
    for part in ("nodes", "nme", "script", "token"):
        assert part in str(caught.value)


def test_a_secret_is_read_from_the_environment_or_asked():
    assert read_secrets(PLAN, {"FRACTALE_INPUT_TOKEN": "e"}) == {"token": "e"}
    assert read_secrets(PLAN, {}, ask=lambda name: f"typed {name}") == {"token": "typed token"}
    assert read_secrets(PLAN, {}) == {}
