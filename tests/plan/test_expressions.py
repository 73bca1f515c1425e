"""Templates and rules: what they mean, and what they say when they go wrong."""

from __future__ import annotations

import json
import math
import re
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jinja2 import StrictUndefined
from jinja2.sandbox import ImmutableSandboxedEnvironment

from counts import FULL, examples
from fractale.errors import Position, TemplateError
from fractale.plan.expressions import evaluate, holds, references, render, syntax_problems
from fractale.plan.model import Expression, Template

AT = Position("plan.yaml", 10, 5)
SCOPE = {
    "inputs": {"nodes": 4, "name": "lj", "sizes": [8, 16], "path": "/data/run 1/in.lj"},
    "steps": {
        "transform": {
            "outputs": {"jobspec": "#!/bin/sh", "items": [3], "values": 7, "done": True},
            "outcome": "success",
            "error": None,
            "attempts": 2,
        },
        "build-image": {"outputs": {"tag": "v1"}},
    },
    "run": {"id": "k7f3"},
}


def text(source):
    return render(Template(source, AT), SCOPE)


def value(source, **scope):
    return evaluate(Expression(source, AT), {**SCOPE, **scope})


def rule(source, **outputs):
    return holds(Expression(source, AT), outputs)


def fault(source, **scope):
    with pytest.raises(TemplateError) as caught:
        render(Template(source, AT), {**SCOPE, **scope})
    return caught.value


class TestTemplates:
    @pytest.mark.parametrize(
        ("source", "expected"),
        [
            ("{{ inputs.nodes }}", 4),
            ("  {{ inputs.sizes }}\n", [8, 16]),
            ("{{ steps.transform.outputs.done }}", True),
            ("{{ steps.transform.error }}", None),
            ("{{ {'a': [1, inputs.nodes]} }}", {"a": [1, 4]}),
            ("{{ (1, 2) }}", [1, 2]),
        ],
    )
    def test_a_whole_expression_keeps_its_type(self, source, expected):
        assert text(source) == expected
        assert type(text(source)) is type(expected)

    @pytest.mark.parametrize(
        ("source", "expected"),
        [
            ("-N {{ inputs.nodes }}", "-N 4"),
            ("{{ inputs.nodes }}{{ inputs.nodes }}", "44"),
            ("x={{ inputs.sizes }}", "x=[8,16]"),
            ("{{ true }} {{ none }} {{ 1.5 }}", "true null 1.5"),
            ("m: {{ {'k': 'é'} }}", 'm: {"k":"é"}'),
            ("a {{- ' b ' -}} c", "a b c"),
            ("{{ '{{' }} stays {{ '}}' }}", "{{ stays }}"),
        ],
    )
    def test_other_text_renders_to_text(self, source, expected):
        assert text(source) == expected

    def test_only_double_braces_are_special(self):
        script = "n=${#list[@]}; {# no comment #} {%d} # line\n## {{ inputs.name }}\n"
        assert text(script) == script.replace("{{ inputs.name }}", "lj")

    def test_values_render_at_any_depth(self):
        tree = {"a": [Template("{{ inputs.nodes }}", AT), {"b": Template("<{{ run.id }}>", AT)}, 1]}
        assert render(tree, SCOPE) == {"a": [4, {"b": "<k7f3>"}, 1]}

    def test_what_a_tool_returned_is_never_a_template(self):
        scope = {"out": "{{ run.id }}"}
        assert render(Template("{{ out }}", AT), scope) == "{{ run.id }}"
        assert render(Template("> {{ out }}", AT), scope) == "> {{ run.id }}"

    def test_rendering_changes_nothing_in_the_scope(self):
        before = json.dumps(SCOPE)
        text("{{ inputs.sizes + [1] }} {{ inputs.sizes | sort(reverse=true) | list }}")
        assert json.dumps(SCOPE) == before


class TestNames:
    @pytest.mark.parametrize("key", ["items", "values", "jobspec"])
    def test_keys_win_over_methods(self, key):
        outputs = SCOPE["steps"]["transform"]["outputs"]
        assert value(f"steps.transform.outputs.{key}") == outputs[key]

    def test_methods_are_called(self):
        assert value("{'a': 1}.items()") == [["a", 1]]
        assert value("inputs.name.upper()") == "LJ"
        assert value("'a,b'.split(',')") == ["a", "b"]

    def test_step_names_may_have_a_hyphen(self):
        assert value("steps.build-image.outputs.tag") == "v1"
        assert value("steps['build-image'].outputs.tag") == "v1"
        assert value("inputs.nodes-1") == 3

    def test_indexes_and_slices(self):
        assert value("inputs.sizes.0 + inputs.sizes[-1]") == 24
        assert value("inputs.name[:1]") == "l"
        assert value("inputs.sizes[::-1]") == [16, 8]

    def test_undefined_names_its_place_and_what_there_is(self):
        error = fault("one\n  {{ inputs.nodes }} {{ steps.transfrm.outputs.jobspec }}")
        assert str(error.position) == "plan.yaml:11:35"
        assert "`steps.transfrm` is not defined" in error.message
        assert "`transform`" in error.message
        assert error.hint == "did you mean `transform`?"

    def test_a_method_without_its_brackets_is_told(self):
        assert fault("{{ inputs.name.upper }}").hint == "call it: `.upper()`"

    def test_default_and_is_defined_opt_out(self):
        assert value("steps.gone.outputs.x | default('none')") == "none"
        assert value("inputs.gone | d([])") == []
        assert value("1 if inputs.gone is defined else 2") == 2
        assert value("inputs.name | default('x')") == "lj"
        assert value("'' | default('x', true)") == "x"

    @pytest.mark.parametrize(
        "source", ["inputs.gone", "not gone", "gone == 1", "[gone]", "gone.a.b"]
    )
    def test_undefined_is_strict_outside_rules(self, source):
        with pytest.raises(TemplateError, match="not defined"):
            value(source)


class TestRules:
    """Every rule that fractale 0.1.0 accepted means the same."""

    @pytest.mark.parametrize(
        ("source", "outputs", "expected"),
        [
            ("returncode == 0", {"returncode": 0}, True),
            ("not valid", {"valid": False}, True),
            ("house.light.on", {"house": {"light": {"on": True}}}, True),
            (
                "user.age >= 18 and 'ops' in user.roles",
                {"user": {"age": 21, "roles": ["admin", "ops"]}},
                True,
            ),
            ("valid == TRUE AND error == null", {"valid": True, "error": None}, True),
            ("Not (a Or b)", {"a": 0, "b": ""}, True),
            ("a == NONE or a == Null", {"a": None}, True),
            ("a == 1.0", {"a": 1}, True),
            ("not a == b", {"a": 1, "b": 2}, True),
            ("_private == 1", {"_private": 1}, True),
            ("a == .5 and b == 2.", {"a": 0.5, "b": 2}, True),
            ("len(items) > 1", {"items": [1, 2]}, True),
            ("len(items) == 0", {"items": None}, True),
            ("starts_with(log, 'ok') and ends_with(log, 'd')", {"log": "ok, passed"}, True),
            ("contains(tags, 'x')", {"tags": ["x"]}, True),
            ("contains(tags, 'x')", {"tags": 5}, False),
            ("matches(state, 'COMPLETED|DONE')", {"state": "DONE"}, True),
            ("matches(state, 'DON')", {"state": "DONE"}, False),
            ("'ops' in roles", {"roles": None}, False),
            ("outputs.items", {"outputs": {"items": []}}, False),
        ],
    )
    def test_rules_of_0_1_0(self, source, outputs, expected):
        assert rule(source, **outputs) is expected

    @pytest.mark.parametrize(
        ("source", "expected"),
        [
            ("jobspec", False),
            ("not jobspec", True),
            ("jobspec == 1", False),
            ("jobspec != 1", False),
            ("jobspec == other", False),
            ("jobspec < 1", False),
            ("'a' in jobspec", False),
            ("'a' not in jobspec", False),
            ("jobspec.a.b", False),
            ("jobspec | length > 0", False),
            ("jobspec is none", False),
            ("jobspec is not none", False),
            ("jobspec is not defined", True),
            ("jobspec or true", True),
            ("not (jobspec == 1)", True),
            ("1 in [jobspec, 1]", True),
        ],
    )
    def test_undefined_is_false_and_so_is_every_comparison_with_it(self, source, expected):
        assert rule(source) is expected

    def test_undefined_names_are_told_unless_they_are_expected(self):
        told: list[str] = []
        source = "a.b == 1 or c or (d | default(0)) or e is defined"
        assert not holds(Expression(source, AT), {"a": {}}, told.append)
        assert told == ["a.b", "c"]

    def test_a_rule_that_does_not_fit_the_data_is_an_error(self):
        with pytest.raises(TemplateError, match="greater, a number or text") as caught:
            rule("n > 1", n="2")
        assert str(caught.value.position) == "plan.yaml:10:5"


class TestLanguage:
    @pytest.mark.parametrize(
        ("source", "expected"),
        [
            ("1 + 2 * 3 ** 2 - 7 // 2 % 2", 18),
            ("'a' ~ 1 ~ none ~ [1]", "a1null[1]"),
            ("'%03d-%s' % [7, 'x']", "007-x"),
            ("'%(n)s%%' | format(n=3)", "3%"),
            ("1 < 2 < 3 != 4", True),
            ("'b' in 'abc' and 'z' not in {'y': 1}", True),
            ("[3, 1, 2] | sort | join('-')", "1-2-3"),
            ("['b', 'A'] | sort", ["A", "b"]),
            ("[{'n': 2}, {'n': 1}] | sort(attribute='n') | map(attribute='n') | list", [1, 2]),
            ("[{'a': {'b': 1}}, {}] | map(attribute='a.b', default=0)", [1, 0]),
            ("[1, 2, 3] | select('odd') | sum", 4),
            ("['x', ''] | select", ["x"]),
            ("[{'ok': true}, {'ok': false}, {}] | rejectattr('ok') | length", 2),
            ("[{'n': 1}, {'n': 5}] | selectattr('n', '>', 2) | first", {"n": 5}),
            ("[{'k': 'a', 'v': 1}, {'k': 'b', 'v': 2}] | groupby('k') | map('first')", ["a", "b"]),
            ("[1, 2, 1, true] | unique", [1, 2]),
            ("[[1], [1]] | unique", [[1]]),
            ("[2, 3, 1] | max", 3),
            ("range(5) | batch(2)", [[0, 1], [2, 3], [4]]),
            ("range(5) | slice(2)", [[0, 1, 2], [3, 4]]),
            ("{'b': 1, 'a': 2} | dictsort", [["a", 2], ["b", 1]]),
            ("{'a': 1} | items", [["a", 1]]),
            ("'a b' | title | reverse", "B A"),
            ("'12' | int + '1.5' | float", 13.5),
            ("'x' | int(default=3)", 3),
            ("2.567 | round(1)", 2.6),
            ("-3 | abs", 3),
            ("-(3 | abs)", -3),
            ("'one\\ntwo' | indent(2)", "one\n  two"),
            ("'one two three' | truncate(8, end='~')", "one~"),
            ("'a/b c' | urlencode", "a/b%20c"),
            ("'/data/x/in.lj' | basename", "in.lj"),
            ("'{\"a\": [1, null]}' | fromjson", {"a": [1, None]}),
            ("{'a': [1, none]} | tojson", '{"a":[1,null]}'),
            ("'  x ' | trim | upper | lower | capitalize", "X"),
            ("'aXbX' | replace('X', '')", "ab"),
            ("'a b' | wordcount", 2),
            ("'a' if none else 'b'", "b"),
            ("dict(a=1).get('b', 2)", 2),
            ("4 is divisibleby 2 and 3 is odd and 'x' is string", True),
            ("1 is integer and true is boolean and {} is mapping and none is none", True),
            ("'a' 'b'", "ab"),
            ("'\\u00e9\\n'", "é\n"),
            ("0x10 + 1_000", 1016),
            ("'a b c' | replace(' ', '-', 1)", "a-b c"),
            ("'ab'.center(4) ~ 'ab'.ljust(3, '.') ~ '7'.zfill(2)", " ab ab.07"),
            ("'x' | center(3)", " x "),
            ("'a\\n\\nb' | indent('> ', first=true, blank=true)", "> a\n> \n> b"),
            ("'a\\n\\nb' | indent", "a\n\n    b"),
            ("'short' | truncate", "short"),
            ("'abcdef' | truncate(5, true)", "ab..."),
            ("{'a b': 1, 'c': 'd'} | urlencode", "a%20b=1&c=d"),
            ("'3.7' | int", 3),
            ("'0x1f' | int(base=16)", 31),
            ("[] | int(7)", 7),
            ("2.9 | int", 2),
            ("'x' | float", 0.0),
            ("none | float(1.5)", 1.5),
            ("2.1 | round(method='ceil')", 3.0),
            ("2.19 | round(1, 'floor')", 2.1),
            ("7 | round", 7),
            ("[1, 2] | first + 'ab' | last | length", 2),
            ("{'a': 1} | first", "a"),
            ("[1, 2] | reverse", [2, 1]),
            ("range(3) | batch(2, 0)", [[0, 1], [2, 0]]),
            ("range(3) | slice(2, 9)", [[0, 1], [2, 9]]),
            ("[[2, 'b'], [1, 'a']] | sort", [[1, "a"], [2, "b"]]),
            ("[[1, 'x']] | map(attribute=1)", ["x"]),
            ("[{}] | selectattr('x', 'undefined') | length", 1),
            ("[{'x': 1}] | selectattr('x', 'defined') | length", 1),
            ("[{'x': 1}, {}] | groupby('x', default=0) | map('first')", [0, 1]),
            ("[1, 2] | reject('==', 1)", [2]),
            ("['b', 'a'] | min", "a"),
            ("['B', 'a'] | sort(case_sensitive=true)", ["B", "a"]),
            ("{'a': 2, 'b': 1} | dictsort(by='value') | first", ["b", 1]),
            ("[1] | tojson(indent=1)", "[\n 1\n]"),
            ("'abc'.startswith(['x', 'a']) and 'abc'.endswith('c')", True),
            ("'a-b-c'.rsplit('-', 1) + 'a b'.split(none, 1)", ["a-b", "c", "a", "b"]),
            ("'a b c'.split(none, 1)", ["a", "b c"]),
            ("'a=b'.partition('=')", ["a", "=", "b"]),
            ("'a\\nb'.splitlines() + 'x'.splitlines(true)", ["a", "b", "x"]),
            ("'-'.join([1, none])", "1-null"),
            ("' x '.strip() ~ 'xay'.removeprefix('x').removesuffix('y')", "xa"),
            ("'aXa'.replace('a', 'b', 1).count('a') + 'abc'.find('c')", 3),
            ("[5, 6].index(6) + [1, 1].count(1)", 3),
            ("{'a': 1}.keys() + {'a': 1}.values()", ["a", 1]),
            ("{'a': 1}.get(1) is none", True),
            ("'ab' in ['ab'] and [1] in [[1]] and 1 not in {'1': 1}", True),
            ("[1, 2] < [1, 3] and 'a' <= 'b' and 2 >= 1 and 'b' > 'a'", True),
            ("[1, 2] == [1, 2] and {'a': 1} != {'a': 2} and [1] != [1, 2]", True),
            ("'a' is lower and 'A' is upper and 2 is even and 'a' is in ['a']", True),
            ("3 * 'a' ~ ([0] * 2) | length", "aaa2"),
            ("2 ** -1 + 2 ** 0", 1.5),
            ("-(1) + (+2)", 1),
            ("'%5.1f|%x|%%' % [2.25, 255]", "  2.2|ff|%"),
            ("'%s' % [[1]]", "[1]"),
            ("len(none) + len('ab')", 2),
            ("matches(5, '[0-9]') and starts_with('a', 'a')", True),
            ("inputs | length", 4),
            ("[1, 2, 3][1:] + [1, 2][:1]", [2, 3, 1]),
            ("''.join(['a']) if inputs else 0", "a"),
            ("x.y is undefined", True),
            ("[{'a': 1}] | sum(attribute='a', start=1)", 2),
            ("['a', 'A'] | unique | list | length", 1),
        ],
    )
    def test_what_an_expression_can_do(self, source, expected):
        assert value(source) == expected

    @pytest.mark.parametrize(
        ("source", "message"),
        [
            ("1 + 'a'", "cannot add a number and text"),
            ("[] | first", "a list is empty"),
            ("1 / 0", "division by zero"),
            ("{1: 2}", "a key must be text"),
            ("1e300 * 1e300", "too large a number"),
            ("(-8) ** 0.5", "not a real one|not a real"),
            ("'x' | upper(1)", "too many positional"),
            ("'x' | center('y')", "expected a whole number"),
            ("'NaN' | fromjson", "not JSON"),
            ("[1, 'a'] | sort", "which is greater"),
            ("'abc'.index('z')", "substring not found"),
            ("none.items()", "null has no method"),
            ("['a'] | map('nope')", "unknown filter `nope`"),
            ("[1] | select('nope')", "unknown test `nope`"),
            ("1 if false", "no `else` is given"),
            ("matches('a', '(?=a)')", "look-ahead, look-behind and references"),
            ("matches('a', '(?<!a)')", "look-ahead, look-behind and references"),
            ("matches('aa', '(a)\\\\1')", "look-ahead, look-behind and references"),
            ("matches('a', 'a**')", r"bad repetition operator: \*\*"),
            ("matches('a', '(a')", r"missing \): \(a"),
            ("matches('a', 'a)')", r"unexpected \): a\)"),
            ("matches('a', '[a')", r"missing \]: \[a"),
            ("matches('a', '[z-a]')", "invalid character class range: z-a"),
            ("matches('a', '*')", r"no argument for repetition operator: \*"),
            ("matches('a', 'a{3,1}')", r"invalid repetition size: \{3,1\}"),
            ("matches('a', '(' * 1500 ~ ')' * 1500)", "too long: at most 2000 characters"),
            ("[] + {}", "cannot add a list and a mapping"),
            ("[] - 1", "cannot subtract a list and a number"),
            ("-'a'", "`-` expects a number, not text"),
            ("'a'[1:'b']", "slice indices"),
            ("1[1:]", "cannot read a part of a number"),
            ("1 in 2", "cannot look for a number in a number"),
            ("1 in 'a'", "cannot look for a number in text"),
            ("{'a': 1} < {'a': 2}", "which is greater"),
            ("'%d' % 'a'", "expects a number, not text"),
            ("'%d %d' % 1", "more fields than"),
            ("'%d' % [1, 2]", "fewer fields than"),
            ("'%(a)s' % 1", "names `a`"),
            ("'%(a)s' % {}", "names `a`"),
            ("5 | list", "expected a list"),
            ("5 | first", "expected a list"),
            ("5 | items", "expected a mapping"),
            ("5 | dictsort", "takes a mapping"),
            ("5 | length", "a number has no length"),
            ("5 | trim", "expected text"),
            ("'a' | abs", "expected a number"),
            ("1.5 | round(method='up')", "`common`, `ceil` or `floor`"),
            ("[] | max", "empty"),
            ("[1] | batch(0)", "at least one"),
            ("[1] | slice(0)", "at least one"),
            ("[[[1]], [[2]]] | sort", "no order"),
            ("[1] | map", "name of a filter"),
            ("[1] | selectattr", "name of an attribute"),
            ("[{}] | map(attribute='x')", "not defined in an item"),
            ("[1] | tojson(indent=99)", "indented by"),
            ("'{' | fromjson", "not JSON"),
            ("'a'.join(1)", "expected a list to join"),
            ("'a'.replace(1, 'b')", "expected text"),
            ("[1].index(2)", "does not have that value"),
            ("['a'] | groupby('x')", "not defined in an item"),
            ("3 is divisibleby 'a'", "expected a whole number"),
            ("{}[[]]", "unhashable"),
        ],
    )
    def test_what_cannot_be_done_says_why(self, source, message):
        with pytest.raises(TemplateError, match=message) as caught:
            value(source)
        assert caught.value.position is not None
        assert caught.value.position.line == 10

    @pytest.mark.parametrize(
        ("pattern", "word", "expected"),
        [
            ("", "", True),
            ("a|b|", "", True),
            ("a{2,3}", "aaa", True),
            ("a{2,3}", "a", False),
            ("(?:ab)*c?", "ababc", True),
            (r"\d+\.\d*", "12.", True),
            ("[^a-c]x", "dx", True),
            ("[]x]", "]", True),
            ("^a.c$", "abc", True),
            ("a.c", "a\nc", False),
            ("(a|ab)(c|bcd)", "abcd", True),
            ("x{,2}y", "xxy", True),
            ("x{,}", "xxx", True),
            (r"x\{,2}", "x{,2}", True),
            ("[{,2}]+", "{,2}", True),
            ("{}", "{}", True),
            (r"\(a\)", "(a)", True),
            (r"\bone\b two", "one two", True),
            ("(?P<first>a)(?i:B)", "ab", True),
            (r"a\Z", "a", True),
            ("a$", "a\n", False),
            (r"\w+\s\d", "größe\u00a0\u0663", True),
            (r"[^\W\d_]+", "größe", True),
            (r"[\W]", "é", False),
            (r"[\s\S]*", "a\n\udc80", True),
            ("\udc80", "\udc80", True),
        ],
    )
    def test_patterns(self, pattern, word, expected):
        assert rule("matches(word, pattern)", word=word, pattern=pattern) is expected

    @pytest.mark.parametrize("escape", list("dDwWsS"))
    @pytest.mark.parametrize("form", ["{}", "[{}]", "[^{}]"])
    def test_kinds_of_characters_are_those_of_python(self, escape, form):
        pattern = form.format(f"\\{escape}")
        step = 1 if FULL else 7
        each = [*range(0x180), *range(0x180, 0x3100, step)]
        letters = [chr(n) for n in [*each, 0xFE33, 0xFE4D, 0xFF3F, 0x1F600, 0x2A700]]
        known = [c for c in letters if unicodedata.category(c) != "Cn"]
        own = [c for c in known if rule("matches(c, p)", c=c, p=pattern)]
        assert own == [c for c in known if re.fullmatch(pattern, c)]


class TestReferences:
    def test_paths_and_places(self):
        found = references(Template("x {{ steps['a-b'].outputs.x[0][i].y }}\n{{ inputs.n }}", AT))
        assert [r.path for r in found] == [
            ("steps", "a-b", "outputs", "x", 0),
            ("i",),
            ("inputs", "n"),
        ]
        assert [str(r.position) for r in found] == [
            "plan.yaml:10:10",
            "plan.yaml:10:36",
            "plan.yaml:11:8",
        ]
        assert str(found[0].positions[1]) == "plan.yaml:10:17"
        assert [r.complete for r in found] == [False, True, True]

    def test_functions_and_methods_are_no_names(self):
        found = references(Expression("len(run.id.upper()) + range(n)[0] | int(base=b)", AT))
        assert [r.path for r in found] == [("run", "id"), ("n",), ("b",)]

    @pytest.mark.parametrize(
        "source", ["a.b | default(1)", "1 if a.b is defined else 2", "a is defined and a.b > 1"]
    )
    def test_what_is_expected_to_be_missing_is_optional(self, source):
        assert all(r.optional for r in references(Expression(source, AT)))

    def test_what_default_falls_back_on_is_not_optional(self):
        found = references(Expression("a | default(b)", AT))
        assert [(r.path, r.optional) for r in found] == [(("a",), True), (("b",), False)]

    def test_text_that_is_not_in_the_language_has_none(self):
        assert references([Template("{{ a b }}", AT), "{{ not a template }}", 1]) == []


class TestSyntax:
    def test_every_fault_of_a_text_is_told_with_its_place(self):
        source = "x\n {{ a b }} {{ c | uper }} {% for x in y %}{{ foo(1) }}{{ 'a' "
        found = syntax_problems({"in": [Template(source, AT)]}, "steps[0]")
        assert [(p.code, str(p.position), p.path) for p in found] == [
            ("template-syntax", "plan.yaml:11:11", "steps[0].in[0]"),
            ("unknown-filter", "plan.yaml:11:23", "steps[0].in[0]"),
            ("unknown-function", "plan.yaml:11:50", "steps[0].in[0]"),
            ("template-syntax", "plan.yaml:11:59", "steps[0].in[0]"),
            ("template-statement", "plan.yaml:11:31", "steps[0].in[0]"),
        ]
        assert found[1].suggestion == "upper"

    @pytest.mark.parametrize(
        ("source", "message"),
        [
            ("", "the expression is missing"),
            ("a = 1", "unexpected `=`"),
            ("a && b", "write `and`"),
            ("(a", "ends too early|expected"),
            ("a)", "closes nothing"),
            ("(a]", r"expected `\)` before `\]`"),
            ("'a", "not closed by a quote"),
            ("a |", "ends too early"),
            ("a is nope", "unknown test `nope`"),
            ("f(*a)", "cannot be spread"),
            ("x.nope()", "unknown method `nope`"),
            ("(1)(2)", "only functions can be called"),
            ("'\\ud800'", "cannot be read"),
            ("'\\N{nope}'", "cannot be read"),
            ("9" * 400, "too long"),
            ("((((" * 100, "nest more than"),
            ("not " * 5000 + "a", "too deeply"),
            ("a" + ".b" * 200, "too deeply"),
            ("a " * 40_000, "too long"),
            ("[" + "1," * 9000 + "]", "too long"),
        ],
    )
    def test_faults_of_an_expression(self, source, message):
        found = syntax_problems(Expression(source, AT), "when")
        assert found
        assert all(p.position and p.position.file == "plan.yaml" for p in found)
        with pytest.raises(TemplateError, match=message):
            evaluate(Expression(source, AT), {"a": 1})

    def test_long_chains_are_fine(self):
        source = " or ".join(["a == 1"] * 1000) + " or true"
        assert value(source, a=0) is True

    @pytest.mark.parametrize("source", ["{% if a %}", "{%- for x in y -%}", "{%raw%}"])
    def test_statements_are_pointed_out(self, source):
        assert [p.code for p in syntax_problems(source, "x")] == ["template-statement"]
        assert [p.code for p in syntax_problems(Template(source + "{{ 1 }}", AT), "x")] == [
            "template-statement"
        ]

    @pytest.mark.parametrize("source", ["${#a[@]}", "{%d}", "{% unknown %}", "{{ '{% if a %}' }}"])
    def test_what_is_no_statement_is_left_alone(self, source):
        assert syntax_problems(Template(source, AT), "x") == []


# Jinja itself says what an expression means, where it means the same over JSON.

NUMBERS = st.integers(-9, 9).map(str)
ATOMS = st.one_of(
    NUMBERS,
    st.sampled_from(["n", "s", "l", "d.k", "true", "none", "'a'", "''", "[1, 2]", "1.5", "l[0]"]),
)


def combined(inner):
    binary = st.sampled_from(["+", "-", "*", "//", "%", "==", "!=", "<", "<=", "in", "and", "or"])
    filters = st.sampled_from(
        ["length", "min", "first", "sort", "sum", "int", "list", "reverse", "default(1)", "max"]
    )
    return st.one_of(
        st.tuples(inner, binary, inner).map(lambda t: f"({t[0]} {t[1]} {t[2]})"),
        st.tuples(inner, filters).map(lambda t: f"({t[0]}) | {t[1]}"),
        st.tuples(inner, inner, inner).map(lambda t: f"({t[0]} if {t[1]} else {t[2]})"),
        inner.map(lambda s: f"(not {s})"),
        inner.map(lambda s: f"({s})[:2]"),
    )


EXPRESSIONS = st.recursive(ATOMS, combined, max_leaves=6)
DATA = {"n": 3, "s": "abc", "l": [2, 1], "d": {"k": "v"}}
JINJA = ImmutableSandboxedEnvironment(undefined=StrictUndefined)


@settings(max_examples=examples(400), deadline=None)
@given(EXPRESSIONS)
def test_expressions_mean_what_they_mean_in_jinja(source):
    try:
        theirs = JINJA.compile_expression(source, undefined_to_none=False)(**DATA)
        theirs = (
            list(theirs)
            if not isinstance(theirs, (str, dict)) and hasattr(theirs, "__iter__")
            else theirs
        )
        json.dumps(theirs)
    except Exception:  # noqa: BLE001 - whatever Jinja cannot do is not compared
        return
    try:
        ours = evaluate(Expression(source, AT), DATA)
    except TemplateError:
        # We are stricter with values of unlike kinds.
        return
    assert ours == theirs or (isinstance(ours, float) and math.isclose(ours, theirs))


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=12,
)


@settings(max_examples=examples(200), deadline=None)
@given(JSON)
def test_any_json_comes_back_as_it_is(data):
    scope = {"x": data}
    assert render(Template("{{ x }}", AT), scope) == data
    assert render(Template("{{ x | tojson | fromjson }}", AT), scope) == data
    mixed = render(Template(":{{ x }}", AT), scope)
    assert mixed[1:] == (
        data
        if isinstance(data, str)
        else json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    )


@settings(max_examples=examples(300), deadline=None)
@given(st.text(alphabet="ab{}%#()[]'\"|.,~+-* 01\n:", max_size=60))
def test_no_text_is_a_crash(source):
    template = Template(source, AT)
    faults = [p for p in syntax_problems(template, "x") if p.code != "template-statement"]
    if not faults:
        references(template)
    else:
        assert all(p.position for p in faults)
        with pytest.raises(TemplateError):
            render(template, {"a": 1, "b": {"a": [1]}})
