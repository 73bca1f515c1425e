"""Values checked against JSON Schema: what fits, what is told, what a stranger cannot do."""

from __future__ import annotations

import contextlib
import json

import pytest

from fractale.models.structured import read
from fractale.plan import parse_plan
from fractale.schemas import TooMuchWork, UnusableSchema, Work, check_schema, misfits

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


SLOW = "a" * 60 + "!"
LINEAR_PATTERNS = ["^(a+)+$", "(a|aa)+$", "(?:a?){40}a{40}$"]
# RE2 can use none of these.
SLOW_PATTERNS = ["^(?=a)(a+)+$", "(?=a)(a|aa)+$", "((a{1,100}){1,100}){1,100}$"]


@pytest.mark.parametrize("pattern", LINEAR_PATTERNS)
def test_a_pattern_with_repeats_inside_repeats_is_matched(pattern):
    (found,) = misfits({"pattern": pattern}, SLOW * 100, trusted=True)
    assert found.place == "$"
    assert misfits({"pattern": pattern}, "a" * 6000, trusted=True) == []


@pytest.mark.parametrize("pattern", SLOW_PATTERNS)
@pytest.mark.timeout(60)
def test_no_pattern_of_the_users_own_hangs(pattern):
    _is_bounded({"pattern": pattern}, SLOW * 100)


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        (lambda p: {"pattern": p}, SLOW * 100),
        (lambda p: {"patternProperties": {p: {"type": "integer"}}}, {SLOW * 100: 1}),
        (lambda p: {"additionalProperties": False, "patternProperties": {p: {}}}, {SLOW * 100: 1}),
        (lambda p: {"unevaluatedProperties": False, "patternProperties": {p: {}}}, {SLOW * 100: 1}),
        (lambda p: {"propertyNames": {"pattern": p}}, {SLOW * 100: 1}),
        (lambda p: {"items": {"pattern": p}}, [SLOW * 100] * 500),
        (
            lambda p: {
                "items": {"$schema": "http://json-schema.org/draft-07/schema#", "pattern": p}
            },
            [SLOW * 100],
        ),
        (
            lambda p: {"$schema": "http://json-schema.org/draft-04/schema#", "pattern": p},
            SLOW * 100,
        ),
    ],
    ids=["text", "names", "closed", "unevaluated", "names-too", "items", "dialect", "draft4"],
)
@pytest.mark.timeout(60)
def test_no_place_of_a_pattern_is_without_bounds(schema, value):
    _is_bounded(schema("(?=a)(a|aa)+$"), value)


def _is_bounded(schema, value):
    # Python's own matcher would not end with any of them in the time of these tests.
    with contextlib.suppress(TooMuchWork):  # of some it is found at once that they do not match
        misfits(schema, value, trusted=True)


@pytest.mark.timeout(60)
def test_many_answers_in_one_text_share_the_time():
    text = "\n\n".join(json.dumps({"log": SLOW * 100}) for _ in range(2000))
    value, errors = read(text, {"properties": {"log": {"pattern": "(?=a)(a|aa)+$"}}})
    assert value == {"log": SLOW * 100}
    assert "avoid repeats inside repeats" in errors[0]


@pytest.mark.timeout(120)
@pytest.mark.parametrize("trusted", [True, False])
@pytest.mark.parametrize("closed", [{}, {"unevaluatedProperties": False}])
def test_references_that_double_are_given_up(trusted, closed):
    parts = {f"p{n}": {"allOf": [{"$ref": f"#/$defs/p{n + 1}"}] * 2} for n in range(60)}
    schema = {**closed, "$defs": {**parts, "p60": {"type": "object"}}, "$ref": "#/$defs/p0"}
    with pytest.raises(TooMuchWork, match="comparisons"):
        misfits(schema, {"a": 1}, trusted=trusted, work=Work(parts=20_000))


@pytest.mark.parametrize("schema", [{"$ref": "#"}, {"allOf": [{"$ref": "#"}]}])
def test_a_schema_that_is_itself_cannot_be_used(schema):
    with pytest.raises(UnusableSchema):
        misfits(schema, {"a": 1}, trusted=True)


def test_a_deep_schema_of_a_stranger_cannot_be_used():
    schema: dict = {}
    for _ in range(20_000):
        schema = {"not": schema}
    with pytest.raises(UnusableSchema, match="too deeply"):
        misfits(schema, 1)


@pytest.mark.parametrize(
    ("items", "unique"),
    [
        ([{"a": 1}, {"a": 2}], True),
        ([{"a": 1, "b": [1.0]}, {"b": [1], "a": 1.0}], False),
        ([1, True, "1", None, [1], ["1"]], True),
        ([0.5, 0.5], False),
    ],
)
def test_items_are_unique_as_json_values(items, unique):
    assert (misfits({"uniqueItems": True}, items) == []) is unique


@pytest.mark.timeout(30)
def test_unique_items_are_found_without_comparing_each_two():
    schema = {"uniqueItems": True}
    assert misfits(schema, [{"a": n, "b": [n]} for n in range(20_000)]) == []


def test_patterns_of_names_mean_what_they_say():
    schema = {
        "properties": {"x-a": {"minimum": 2}},
        "patternProperties": {"^x-": {"type": "integer"}, "a$": {"maximum": 5}},
        "additionalProperties": {"type": "string"},
    }
    value = {"x-a": 7, "x-b": "no", "other": 1, "ba": 9}
    places = [each.place for each in misfits(schema, value, trusted=True)]
    assert sorted(places) == ["$.ba", "$.other", "$['x-a']", "$['x-b']"]
    assert misfits(schema, {"x-a": 3, "x-b": 4, "c": "d"}, trusted=True) == []


@pytest.mark.parametrize("name", ["patternProperties", "pattern", "enum", "default"])
def test_a_property_may_be_called_as_a_keyword(name):
    schema = {"properties": {name: {"type": "string", "pattern": "^b"}}}
    assert [each.place for each in misfits(schema, {name: 1})] == [f"$.{name}"]
    assert [each.place for each in misfits(schema, {name: "a"}, trusted=True)] == [f"$.{name}"]
    with pytest.raises(UnusableSchema, match="cannot be used"):
        check_schema({"properties": {name: {"pattern": "("}}})


def test_data_in_a_strangers_schema_stays_as_it_is():
    schema = {"enum": [{"pattern": "a"}]}
    assert misfits(schema, {"pattern": "a"}) == []
    assert misfits(schema, {}) != []


PLAN = """
name: p
steps:
  - name: a
    tool: t
    output_schema:
      type: object
      properties:
        log: {SCHEMA}
"""


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ("{pattern: '('}", "not a regular expression"),
        ("{pattern: '(?R)'}", "calls itself"),
        ("{patternProperties: {'[': {}}}", "not a regular expression"),
        ("{$ref: '#foo'}", "leads nowhere"),
        ("{$ref: '#/$defs/foo'}", "leads nowhere"),
        ("{$ref: 'https://lab.example/s.json'}", "must start with `#`"),
        ("{properties: {default: {pattern: '('}}}", "not a regular expression"),
    ],
)
def test_a_plans_schema_that_cannot_be_used_is_an_error_with_its_line(schema, words):
    from fractale.errors import PlanError

    with pytest.raises(PlanError) as caught:
        parse_plan(PLAN.replace("{SCHEMA}", schema))
    (problem,) = caught.value.problems
    assert words in problem.message
    assert problem.position.line == 9


def test_an_anchor_that_is_there_is_found():
    schema = "{anyOf: [{$ref: '#here'}], $defs: {a: {$anchor: here}}}"
    parse_plan(PLAN.replace("{SCHEMA}", schema))
