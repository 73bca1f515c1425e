"""A key is declared once, on a field; reading, writing and the schema follow from that."""

from dataclasses import dataclass, field
from typing import Annotated, Any

import jsonschema
import pytest
from generate import keys as docs_table

from fractale.plan.fields import Reader
from fractale.plan.forms import (
    FLAG,
    NAME,
    TEXT,
    VALUES,
    Key,
    choice,
    duration,
    keys_of,
    part,
    part_data,
    part_schema,
    read_part,
    whole,
)
from fractale.plan.kinds import KINDS
from fractale.plan.model import STEP_KEYS
from fractale.plan.source import read_source


@dataclass(frozen=True, slots=True, kw_only=True)
class Inner:
    size: Annotated[int, Key(whole(), "The size.")] = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Outer:
    name: Annotated[str, Key(NAME, "Its [name](x.md).", required=": what it is called")]
    text: Annotated[str, Key(TEXT, "A text.")] = ""
    quiet: Annotated[bool, Key(FLAG, "`true`: says nothing.")] = False
    wait: Annotated[float | None, Key(duration(zero=True), "A wait.", name="pause")] = None
    color: Annotated[str, Key(choice(("red", "green")), "A | colour.", never_empty=True)] = "red"
    inner: Annotated[Inner, Key(part(Inner), "A part.")] = field(default_factory=Inner)
    rest: Annotated[Any, Key(VALUES, "The rest.")] = field(default_factory=dict[str, Any])
    hidden: int = 0


KEYS = keys_of(Outer)


def read(text: str) -> tuple[dict[str, Any], list[str]]:
    reader = Reader()
    mapping = reader.fields(
        read_source(text, "f"), "", KEYS, "a thing (or two)", {"nam": "write it"}
    )
    assert mapping is not None
    return read_part(KEYS, mapping), [str(each) for each in reader.problems.errors]


WHOLE = "{name: n, text: t, quiet: true, pause: 90, color: green, inner: {size: 3}, rest: {a: 1}}"


def test_a_mapping_becomes_the_fields_and_is_written_again() -> None:
    given, problems = read(WHOLE)
    thing = Outer(**given)
    assert not problems
    assert thing == Outer(
        name="n", text="t", quiet=True, wait=90, color="green", inner=Inner(size=3), rest={"a": 1}
    )
    assert part_data(thing) == {
        "name": "n",
        "text": "t",
        "quiet": True,
        "pause": "1m30s",
        "color": "green",
        "inner": {"size": 3},
        "rest": {"a": 1},
    }


def test_what_is_as_it_is_by_default_is_not_written() -> None:
    given, _ = read("{name: n, quiet: false, inner: {size: 1}, color: red, pause: }")
    assert part_data(Outer(**given)) == {"name": "n"}
    assert part_data(Inner(), all_keys=True) == {"size": 1}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{text: t}", "f:1:1  missing-key  name: a thing needs `name`: what it is called"),
        ("{name: n, quite: true}", "did you mean `quiet`?"),
        ("{name: n, nam: x}", "nam: a thing (or two) has no key `nam`; write it"),
        ("{name: n, color: }", "f:1:11  empty-value  color: `color` is empty"),
        ("{name: n, hidden: 1}", "has no key `hidden`"),
        ("{name: n, wait: 1}", "has no key `wait`"),
        ("{name: n, inner: {size: 0}}", "f:1:25  bad-value  inner.size: `size` must be at least 1"),
    ],
)
def test_what_does_not_fit_is_a_problem(text: str, message: str) -> None:
    _, problems = read(text)
    assert len(problems) == 1
    assert message in problems[0]


def test_the_schema_accepts_and_refuses_the_same() -> None:
    schema = part_schema(KEYS)
    schema["$defs"] = {"duration": {"type": ["number", "string"]}}
    validator = jsonschema.Draft202012Validator(schema)
    assert validator.is_valid(read_source(WHOLE, "f").plain())
    assert not validator.is_valid({"text": "t"})
    assert not validator.is_valid({"name": "n", "hidden": 1})
    assert not validator.is_valid({"name": "n", "inner": {"size": 0}})


def test_the_table_of_the_docs_says_what_the_keys_say() -> None:
    lines = docs_table(KEYS).splitlines()
    assert lines[:3] == [
        "| key | meaning |",
        "|---|---|",
        "| `name` | **Required.** Its [name](x.md). |",
    ]
    assert r"| `color` | A \| colour. Default: `red`. |" in lines
    assert "| `pause` | A wait. |" in lines


def test_every_kind_and_the_keys_that_kinds_lack_are_keys_of_a_step() -> None:
    assert set(KINDS) <= set(STEP_KEYS)
    for kind in KINDS.values():
        assert kind.lacks <= set(STEP_KEYS)
        assert not kind.lacks or kind.reason
    for key in STEP_KEYS.values():
        assert set(key.kinds) <= set(KINDS)
        assert set(key.needs) <= set(STEP_KEYS)
