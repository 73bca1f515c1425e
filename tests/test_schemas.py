"""Values checked against JSON Schema: what fits, what is told, what a stranger cannot do."""

from __future__ import annotations

import pytest

from fractale.schemas import UnusableSchema, misfits

NODES = {
    "type": "object",
    "properties": {"nodes": {"type": "integer"}, "wait": {"type": ["boolean", "null"]}},
    "required": ["nodes"],
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ({"nodes": 1}, []),
        ({}, ["$: 'nodes' is a required property"]),
        ({"nodes": "four"}, ["$.nodes: 'four' is not of type 'integer'"]),
        (
            {"nodes": "4", "wait": 1},
            ["$.nodes: '4' is not of type 'integer'", "$.wait: 1 is not of type 'boolean', 'null'"],
        ),
    ],
)
def test_each_misfit_names_its_place(value, told):
    assert [str(each) for each in misfits(NODES, value)] == told


@pytest.mark.parametrize(
    ("text", "converted"),
    [("4", True), (" 4.5 ", True), ("1e3", True), ("four", False), ("", False), ("true", False)],
)
def test_text_that_reads_as_a_number_may_count_as_one(text, converted):
    assert (misfits(NODES, {"nodes": text}, texts="converted") == []) is converted
    assert misfits(NODES, {"nodes": text}, texts="any") == []
    assert misfits(NODES, {"nodes": text}) != []


@pytest.mark.parametrize("text", ["true", "False"])
def test_text_that_reads_as_a_flag_may_count_as_one(text):
    assert misfits(NODES, {"nodes": 1, "wait": text}, texts="converted") == []


@pytest.mark.parametrize(
    "schema", [{"type": "no such type"}, {"$ref": "https://lab.example/s.json"}, {"type": 4}]
)
def test_a_schema_that_cannot_be_used_is_an_error_of_its_own(schema):
    with pytest.raises(UnusableSchema):
        misfits(schema, {"nodes": 1})


EVIL = "(a+)+$"


@pytest.mark.parametrize(
    "schema",
    [
        {"properties": {"name": {"type": "string", "pattern": EVIL}}},
        {"patternProperties": {EVIL: {"type": "integer"}}, "additionalProperties": False},
        {"allOf": [{"properties": {"name": {"pattern": EVIL}}}]},
    ],
    ids=["pattern", "names", "nested"],
)
def test_a_strangers_pattern_is_not_matched(schema):
    # Matched against this text, the pattern would not end.
    assert misfits(schema, {"name": "a" * 60 + "!", "a" * 60 + "!": 1}) == []


def test_the_users_own_pattern_is():
    schema = {"properties": {"name": {"pattern": "^[a-z]+$"}}}
    (found,) = misfits(schema, {"name": "A1"}, trusted=True)
    assert found.place == "$.name"


def test_a_property_that_is_called_pattern_is_a_property():
    schema = {"properties": {"pattern": {"type": "integer"}}}
    assert [each.place for each in misfits(schema, {"pattern": "x"})] == ["$.pattern"]
