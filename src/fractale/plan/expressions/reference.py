"""Every function, test, filter and method of the language with an example, for the documentation.

A test evaluates the examples, and checks that no name is missing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final


@dataclass(frozen=True, slots=True)
class Entry:
    """Names with one meaning.

    Args:
        names: Its name, and other names for it.
        meaning: What it gives, as Markdown.
        example: An expression that uses it.
        result: The value of the example.
    """

    names: Sequence[str]
    meaning: str
    example: str
    result: Any


def _entry(names: str, meaning: str, example: str, result: Any) -> Entry:
    return Entry(names.split(), meaning, example, result)


REFERENCE: Final[Mapping[str, Sequence[Entry]]] = {
    "function": (
        _entry(
            "matches",
            "Whether the *whole* text fits a regular expression; it is compared in linear time.",
            "matches('node-17', 'node-[0-9]+')",
            True,
        ),
        _entry(
            "contains",
            "Whether a text has a part, a list an item, or a mapping a key; false for other data.",
            "contains('error: disk full', 'disk')",
            True,
        ),
        _entry("starts_with", "Whether a text begins so.", "starts_with('job-1', 'job')", True),
        _entry("ends_with", "Whether a text ends so.", "ends_with('in.lj', '.lj')", True),
        _entry(
            "len",
            "The number of characters, items or keys; 0 for null.",
            "len([4, 8, 16])",
            3,
        ),
        _entry(
            "range",
            "Whole numbers up to an end, which is left out: `range(end)`, `range(start, end)`, "
            "`range(start, end, step)`. At most 100,000.",
            "range(2, 8, 2)",
            [2, 4, 6],
        ),
        _entry(
            "dict", "A mapping.", "dict(nodes=2, queue='debug')", {"nodes": 2, "queue": "debug"}
        ),
    ),
    "test": (
        _entry("defined", "Whether there is such a name.", "nodes is defined", False),
        _entry("undefined", "The opposite of `defined`.", "nodes is undefined", True),
        _entry("none", "Whether it is null.", "none is none", True),
        _entry("true", "Whether it is exactly true.", "1 is true", False),
        _entry("false", "Whether it is exactly false.", "false is false", True),
        _entry("boolean", "Whether it is true or false.", "0 is boolean", False),
        _entry("integer", "Whether it is a whole number.", "4 is integer", True),
        _entry("float", "Whether it is a number with a point.", "4.0 is float", True),
        _entry("number", "Whether it is a number.", "'4' is number", False),
        _entry("string", "Whether it is text.", "'4' is string", True),
        _entry("mapping", "Whether it is a mapping.", "{'a': 1} is mapping", True),
        _entry(
            "sequence iterable", "Whether it is text, a list or a mapping.", "[1] is sequence", True
        ),
        _entry("lower", "Whether all letters are small.", "'abc' is lower", True),
        _entry("upper", "Whether all letters are capitals.", "'abc' is upper", False),
        _entry("odd", "Whether a whole number is odd.", "3 is odd", True),
        _entry("even", "Whether a whole number is even.", "3 is even", False),
        _entry("divisibleby", "Whether a number divides it.", "48 is divisibleby(16)", True),
        _entry("in", "Whether it is in a text, a list or a mapping.", "2 is in([1, 2])", True),
        _entry(
            "eq equalto ==",
            "As `==`. The names of comparisons are for `select` and `selectattr`.",
            "[1, 2, 1] | select('eq', 1)",
            [1, 1],
        ),
        _entry("ne !=", "As `!=`.", "[1, 2] | select('ne', 1)", [2]),
        _entry("gt greaterthan >", "As `>`.", "[1, 2, 3] | select('>', 1)", [2, 3]),
        _entry("lt lessthan <", "As `<`.", "[1, 2, 3] | select('lt', 3)", [1, 2]),
        _entry("ge >=", "As `>=`.", "[1, 2, 3] | select('ge', 2)", [2, 3]),
        _entry("le <=", "As `<=`.", "[1, 2, 3] | select('<=', 2)", [1, 2]),
    ),
    "filter": (
        _entry(
            "default d",
            "A value for a missing name; with `true` also for an empty one.",
            "nodes | default(4)",
            4,
        ),
        _entry("length count", "As `len`.", "'abc' | length", 3),
        _entry("first", "The first item.", "[4, 8] | first", 4),
        _entry("last", "The last item.", "[4, 8] | last", 8),
        _entry(
            "join",
            "The items as one text; with `attribute` a part of each.",
            "[1, 2] | join(', ')",
            "1, 2",
        ),
        _entry(
            "map",
            "A filter, or `attribute`, for each item; `default` for items without it.",
            "[{'n': 1}, {'n': 2}] | map(attribute='n')",
            [1, 2],
        ),
        _entry(
            "select", "The items for which a test is true.", "[1, 2, 3] | select('odd')", [1, 3]
        ),
        _entry("reject", "The other items.", "[1, 2, 3] | reject('odd')", [2]),
        _entry(
            "selectattr",
            "The items whose attribute passes a test.",
            "[{'n': 1}, {'n': 8}] | selectattr('n', '>', 4)",
            [{"n": 8}],
        ),
        _entry(
            "rejectattr",
            "The other items.",
            "[{'n': 1}, {'n': 8}] | rejectattr('n', '>', 4)",
            [{"n": 1}],
        ),
        _entry("sum", "The sum; with `attribute` of a part of each.", "[1, 2.5] | sum", 3.5),
        _entry("min", "The least item.", "[3, 1] | min", 1),
        _entry("max", "The greatest item.", "[3, 1] | max", 3),
        _entry(
            "sort",
            "The items in order; `reverse`, `attribute`, `case_sensitive`.",
            "[3, 1] | sort(reverse=true)",
            [3, 1],
        ),
        _entry("unique", "Each item once.", "[1, 1, 2] | unique", [1, 2]),
        _entry("reverse", "The items or letters, the last first.", "[1, 2] | reverse", [2, 1]),
        _entry("batch", "Lists of a size.", "[1, 2, 3] | batch(2)", [[1, 2], [3]]),
        _entry(
            "slice", "A number of lists of about equal size.", "[1, 2, 3] | slice(2)", [[1, 2], [3]]
        ),
        _entry(
            "groupby",
            "Pairs of a value and the items whose attribute it is.",
            "[{'q': 'a'}] | groupby('q')",
            [["a", [{"q": "a"}]]],
        ),
        _entry("items", "Pairs of key and value.", "{'a': 1} | items", [["a", 1]]),
        _entry(
            "dictsort",
            "The same in order, `by` key or value.",
            "{'b': 1, 'a': 2} | dictsort",
            [["a", 2], ["b", 1]],
        ),
        _entry("list", "A list; of a text its letters.", "'ab' | list", ["a", "b"]),
        _entry("string", "The value as text.", "4 | string", "4"),
        _entry("int", "A whole number; the argument if it is none.", "'4 nodes' | int(1)", 1),
        _entry("float", "A number; the argument if it is none.", "'2.5' | float", 2.5),
        _entry("round", "Rounded: to places, `ceil` or `floor`.", "2.567 | round(1)", 2.6),
        _entry("abs", "The absolute value.", "-3 | abs", 3),
        _entry("tojson", "The value as JSON text.", "{'a': none} | tojson", '{"a":null}'),
        _entry("fromjson", "The value of JSON text.", "'[1]' | fromjson", [1]),
        _entry("basename", "The last part of a path.", "'/scratch/run/in.lj' | basename", "in.lj"),
        _entry("lower", "Small letters.", "'Debug' | lower", "debug"),
        _entry("upper", "Capitals.", "'debug' | upper", "DEBUG"),
        _entry("capitalize", "A capital, then small letters.", "'dEBUG' | capitalize", "Debug"),
        _entry("title", "A capital in each word.", "'two words' | title", "Two Words"),
        _entry("trim", "Without spaces, or other characters, at both ends.", "' a ' | trim", "a"),
        _entry("replace", "With one part replaced.", "'a-b' | replace('-', '_')", "a_b"),
        _entry("truncate", "Cut to a length.", "'a long text' | truncate(9)", "a..."),
        _entry(
            "indent", "Lines after the first with spaces before.", "'a\\nb' | indent(2)", "a\n  b"
        ),
        _entry("center", "In the middle of a width.", "'a' | center(3)", " a "),
        _entry("format", "The values for `%s`, `%d`, `%f` in a text.", "'%02d' | format(7)", "07"),
        _entry("urlencode", "Quoted for a URL.", "'a b' | urlencode", "a%20b"),
        _entry("wordcount", "The number of words.", "'a b' | wordcount", 2),
    ),
    "method of text": (
        _entry("split", "The words, or the parts around a separator.", "'a b'.split()", ["a", "b"]),
        _entry("rsplit", "The same, from the end.", "'a/b/c'.rsplit('/', 1)", ["a/b", "c"]),
        _entry("splitlines", "The lines.", "'a\nb'.splitlines()", ["a", "b"]),
        _entry(
            "partition rpartition",
            "The text before a separator, the separator, and the text after it.",
            "'n=4'.partition('=')",
            ["n", "=", "4"],
        ),
        _entry(
            "join", "Texts as one, with this text between them.", "', '.join(['a', 'b'])", "a, b"
        ),
        _entry("replace", "With one part replaced.", "'a-b'.replace('-', '_')", "a_b"),
        _entry(
            "strip lstrip rstrip",
            "Without spaces, or other characters, at the ends.",
            "'..a'.lstrip('.')",
            "a",
        ),
        _entry("removeprefix", "Without a beginning.", "'job-1'.removeprefix('job-')", "1"),
        _entry("removesuffix", "Without an end.", "'in.lj'.removesuffix('.lj')", "in"),
        _entry("startswith", "As `starts_with`.", "'job-1'.startswith('job')", True),
        _entry("endswith", "As `ends_with`.", "'in.lj'.endswith('.lj')", True),
        _entry("find rfind", "Where a part is; -1 if nowhere.", "'abc'.find('c')", 2),
        _entry("index", "Where a part is; an error if nowhere.", "'abc'.index('c')", 2),
        _entry("count", "How often a part is in it.", "'abca'.count('a')", 2),
        _entry("lower upper capitalize title", "As the filters.", "'Debug'.lower()", "debug"),
        _entry("zfill", "With zeros in front.", "'7'.zfill(3)", "007"),
        _entry("ljust rjust center", "With spaces up to a width.", "'a'.rjust(3)", "  a"),
        _entry(
            "isdigit isalpha isalnum isspace islower isupper",
            "Whether all characters are of a kind.",
            "'17'.isdigit()",
            True,
        ),
    ),
    "method of a list": (
        _entry("count", "How often an item is in it.", "[1, 2, 1].count(1)", 2),
        _entry("index", "Where an item is; an error if nowhere.", "[4, 8].index(8)", 1),
    ),
    "method of a mapping": (
        _entry("get", "The value of a key, or another value.", "{'a': 1}.get('b', 0)", 0),
        _entry("items", "Pairs of key and value.", "{'a': 1}.items()", [["a", 1]]),
        _entry("keys", "The keys.", "{'a': 1}.keys()", ["a"]),
        _entry("values", "The values.", "{'a': 1}.values()", [1]),
    ),
}
"""What it is → its entries in the order of the table."""
