"""The table of functions, tests, filters and methods says what they do, and leaves none out."""

from __future__ import annotations

import pytest

from fractale.errors import Position
from fractale.plan.expressions import evaluate, functions, syntax_problems
from fractale.plan.expressions.operators import TESTS
from fractale.plan.expressions.reference import REFERENCE
from fractale.plan.model import Expression

NAMES = {
    "function": functions.FUNCTIONS,
    "test": TESTS,
    "filter": functions.FILTERS,
    "method of text": functions.methods_of(""),
    "method of a list": functions.methods_of([]),
    "method of a mapping": functions.methods_of({}),
}


@pytest.mark.parametrize("what", REFERENCE)
def test_every_name_is_in_the_table_once(what):
    listed = [name for entry in REFERENCE[what] for name in entry.names]
    assert sorted(listed) == sorted(NAMES[what])


@pytest.mark.parametrize(
    "entry", [entry for entries in REFERENCE.values() for entry in entries], ids=str
)
def test_every_example_gives_its_result(entry):
    expression = Expression(entry.example, Position("p.yaml", 1, 1))
    found = evaluate(expression, {})
    assert (type(found), found) == (type(entry.result), entry.result)
    assert any(name in entry.example for name in entry.names)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("content is match('a.*')", "unknown test `match`; write it as a function: `matches("),
        ("content is matches('a')", "unknown test `matches`; write it as a function: `matches("),
        ("content | regex_search('a')", "unknown filter `regex_search`; write it as a function"),
        ("content is contains('a')", "`contains(TEXT, PART)`"),
        ("content is startingwith('a')", "`starts_with(TEXT, START)`"),
        ("content | len", "`len(VALUE)`"),
        ("match(content, 'a')", "unknown function `match`; write it as a function: `matches("),
    ],
)
def test_what_other_programs_call_it_names_the_function(source, words):
    (problem,) = syntax_problems(Expression(source, Position("p.yaml", 1, 1)), "x")
    assert words in problem.message


def test_the_methods_of_text_keep_their_names():
    assert evaluate(Expression("'ab'.startswith('a')", Position("p.yaml", 1, 1)), {}) is True
