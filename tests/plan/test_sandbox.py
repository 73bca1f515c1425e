"""What a hostile template can do: nothing outside its data, and not for long.

A plan may come from a stranger or from a model, so its templates are treated as an attack.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import pytest

from fractale.errors import Position, TemplateError
from fractale.plan.expressions import evaluate, holds, render
from fractale.plan.model import Expression, Template

AT = Position("plan.yaml", 1, 1)


class Victim:
    """An object that should never be in a scope; even so nothing of it may be reached."""

    secret = "CANARY"

    def method(self):
        return "CANARY"

    def __getitem__(self, key):
        return "CANARY"


def generator():
    secret = "CANARY"
    yield secret


SCOPE = {
    "inputs": {"text": "a", "number": 1, "list": [1], "map": {"k": "v"}, "none": None},
    "steps": {"a": {"outputs": {"x": 1}}},
    "victim": Victim(),
    "function": generator,
    "generator": generator(),
    "module": os,
}

ESCAPES = [
    # The way from any value to all classes.
    "''.__class__",
    "''.__class__.__mro__[1].__subclasses__()",
    "().__class__.__base__.__subclasses__()",
    "[].__class__.__base__",
    "{}.__class__.__bases__[0]",
    "(1).__class__.__mro__",
    "true.__class__.__base__",
    "none.__class__",
    "''['__class__']",
    "''['__cla' ~ 'ss__']",
    "''['\\x5f\\x5fclass\\x5f\\x5f']",
    "''['\\u005f\\u005fclass__'].mro()",
    "'' | attr('__class__')",
    "'' | attr('\\x5f\\x5fclass\\x5f\\x5f')",
    "'' | attr(['__cla', 'ss__'] | join)",
    "['', 1] | map(attribute='__class__') | list",
    "['a'] | map(attribute='__class__.__mro__') | list",
    "['a'] | map('attr', '__class__') | list",
    "['a'] | groupby('__class__')",
    "['a'] | sort(attribute='__class__')",
    "['a'] | sum(attribute='__class__', start=[])",
    "['a'] | join(attribute='__class__')",
    "['a'] | unique(attribute='__class__') | list",
    "['a'] | max(attribute='__class__')",
    # Formats that look attributes up.
    "'{0.__class__}'.format(1)",
    "'{0.__class__.__mro__}'.format('')",
    "'{a.__class__}'.format_map({'a': 1})",
    "'{0[__class__]}' | format(inputs.text)",
    "'%(__class__)s' % inputs.map",
    "'%s' | format(module)",
    "''.join.__self__",
    "''.upper.__func__",
    # Jinja's own objects.
    "self.__init__.__globals__",
    "self._TemplateReference__context",
    "lipsum.__globals__['os'].popen('id')",
    "cycler.__init__.__globals__.os",
    "joiner.__init__.__globals__",
    "namespace.__init__.__globals__",
    "cycler('a')",
    "namespace(a=1)",
    "lipsum()",
    "loop.index",
    "caller()",
    "varargs",
    "context.environment",
    "environment.from_string('{{ 1 }}')",
    "get_flashed_messages.__globals__",
    "url_for.__globals__",
    "request.application.__globals__",
    "config.items()",
    "range.__class__",
    "range.mro()",
    "dict.__subclasshook__",
    "dict.mro()",
    # Python's own.
    "__import__('os').system('id')",
    "__builtins__.open('/etc/passwd')",
    "open('/etc/passwd').read()",
    "eval('1')",
    "exec('1')",
    "getattr(inputs, '__class__')",
    "globals()",
    "vars()",
    # Objects that should not be there at all.
    "victim.secret",
    "victim.method()",
    "victim['secret']",
    "victim['x']",
    "victim.__dict__",
    "victim | items",
    "victim | list",
    "victim | string",
    "victim | tojson",
    "victim ~ ''",
    "function()",
    "function.__globals__",
    "function.__code__.co_consts",
    "generator.gi_frame.f_globals",
    "generator.gi_code",
    "generator | first",
    "generator | list",
    "module.environ",
    "module.system('id')",
    # Changing what is there.
    "inputs.list.append(2)",
    "inputs.list.extend([2])",
    "inputs.map.update({'k': 1})",
    "inputs.map.pop('k')",
    "inputs.map.setdefault('z', 1)",
    "inputs.map.clear()",
    "inputs.list.sort()",
    "inputs.list.__setitem__(0, 2)",
]


@pytest.mark.parametrize("source", ESCAPES)
def test_no_way_out(source):
    before = json.dumps([SCOPE["inputs"], SCOPE["steps"]])
    with pytest.raises(TemplateError) as caught:
        render(Template(f"{{{{ {source} }}}}", AT), SCOPE)
    assert "CANARY" not in str(caught.value)
    with pytest.raises(TemplateError):
        render(Template(f"text {{{{ {source} }}}}", AT), SCOPE)
    assert json.dumps([SCOPE["inputs"], SCOPE["steps"]]) == before


@pytest.mark.parametrize("source", ESCAPES)
def test_no_way_out_of_a_rule(source):
    try:
        assert not holds(Expression(source, AT), SCOPE)
    except TemplateError as error:
        assert "CANARY" not in str(error)  # noqa: PT017 - either is fine, and both are looked at


def test_there_are_enough_of_them():
    assert len(set(ESCAPES)) >= 60


@pytest.mark.parametrize(
    "source",
    [
        "{% for x in [1] %}{{ 1 }}{% endfor %}",
        "{% import 'os' as os %}{{ 1 }}",
        "{% include '/etc/passwd' %}{{ 1 }}",
        "{% set x = 1 %}{{ 1 }}",
        "{# {{ 2 }} #}{{ 1 }}",
        "# for x in y\n{{ 1 }}",
    ],
)
def test_statements_are_plain_text(source):
    assert render(Template(source, AT), {}) == source.replace("{{ 1 }}", "1").replace(
        "{{ 2 }}", "2"
    )


BOMBS = [
    "'a' * 10**9",
    "2 ** (10**8)",
    "10 ** (10 ** 10)",
    "range(10**9) | list",
    "range(100000) | map('string') | map('center', 1000) | list",
    "(['ab'] * 100000) | map('join', 'x' * 1000)",
    "range(100000) | batch(5) | map('join', 'x' * 1000)",
    "'%1000000000d' | format(1)",
    "'%1000000000d' % 1",
    "'%.1000000000f' % 1",
    "('%1000d' * 10000) % range(10000)",
    "'a'.ljust(10**9)",
    "'a'.rjust(10**9)",
    "'a'.zfill(10**9)",
    "'a' | center(10**9)",
    "('a\n' * 1000) | indent(10**7)",
    "'a' | indent(10**9, first=true)",
    "('a' * 100000) | replace('a', 'b' * 100000)",
    "('a' * 100000).replace('', 'b' * 100000)",
    "('a' * 100000).join(range(100000) | map('string'))",
    "('a ' * 3000000).split()",
    "('a,' * 3000000).split(',')",
    "('a\n' * 3000000).splitlines()",
    "('[' * 3000000) | fromjson",
    "('[' ~ '[],' * 2000000 ~ '1]') | fromjson",
    "('[' ~ '1,' * 150000 ~ '1]') | fromjson | map('string') | map('string')",
    "('[' * 900 ~ ']' * 900) | fromjson | tojson(indent=16)",
    "[[[[0] * 1000] * 1000] * 1000] * 1000",
    "[[[[0] * 1000] * 1000] * 1000] | tojson",
    "[[[0] * 1000] * 1000] * 1000 == [[[0] * 1000] * 1000] * 1000",
    "[[[0] * 1000] * 1000] * 1000 < [[[0] * 1000] * 1000] * 1000",
    "[[0] * 1000] * 1000 in [[[0] * 1000] * 1000] * 1000",
    "([[[0] * 1000] * 1000] * 1000) | sort",
    "([[[0] * 1000] * 1000] * 1000) | unique",
    "([[[0] * 1000] * 1000] * 1000) | join",
    "([[[0] * 1000] * 1000] * 1000)[0]",
    "range(100000) | map('string') | select('in', 'a' * 4000000) | list",
    "(['b'] * 100000) | select('in', 'a' * 4000000) | list",
    "range(100000) | select('in', range(100000)) | list",
    "(['a' * 100000] * 100000) | map('upper') | list",
    "(['a' * 100000] * 100000) | join",
    "(['a' * 100000] * 100000).index('b' * 100000)",
    "[1] | batch(10**9, 0)",
    "[1] | slice(10**9)",
    "1 | round(10**9)",
    "('9' * 100000) | int",
    "9" * 4000,
    "((('9' * 900) | int) * (('9' * 900) | int))",
    "matches('a' * 400000, '(a?){1000}(a*)*' )",
    "matches('a', 'a' * 5000)",
    "('é' * 4000000) | urlencode",
    "('😀' * 7000000) ~ '😀'",
    " ~ ".join(["'a' * 100000"] * 500),
    "[" + ", ".join(["big"] * 200) + "] | tojson",
]

# Patterns that Python's own matcher needs exponential time or much memory for.
PATTERNS = {
    "matches('a' * 400000 ~ 'b', '(a+)+')": "false",
    "matches('a' * 5000, '(a?){1000}(a*)*' )": "true",
    "matches('ab' * 100000 ~ 'c', '(a|b|ab)*')": "false",
    "matches('a' * 400000, '(.*a.{12})*z')": "false",
    "matches('a', '((a{50}){50}){50}')": "invalid repetition size",
    "matches('a', '((){9999}){9999}')": "invalid repetition size",
    "matches('a', '(' * 900 ~ 'a' ~ ')' * 900)": "true",
}

# The budget, or a limit of its own, and not some other fault before it.
LIMIT = re.compile(r"too large|too long|too deep|at most")

MEASURE = """
import json, resource, sys, time
sys.path[:0] = json.loads(sys.argv[1])
from fractale.errors import Position, TemplateError
from fractale.plan.expressions import holds, render
from fractale.plan.model import Expression, Template

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

def work():
    started = time.process_time()
    total = 0
    for number in range(2_000_000):
        total += number
    return time.process_time() - started

at = Position("plan.yaml", 1, 1)
scope = {"big": [{"k": "v" * 100}] * 10_000}
render(Template("{{ 'a' | upper | list | tojson | fromjson }} {{ matches('a', 'a') }}", at), scope)
resource.setrlimit(resource.RLIMIT_CPU, (300, 300))
unit, before = work(), peak()
for source in json.load(sys.stdin):
    started = time.process_time()
    try:
        value = render(Template("{{ " + source + " }}", at), scope)
        end = json.dumps(value) if isinstance(value, bool) else "value"
    except TemplateError as error:
        end = error.message
    seconds = time.process_time() - started
    print(json.dumps([source[:80], end, peak() - before, seconds, seconds / unit]), flush=True)
"""


def measured(sources):
    """How each ends, in a process of its own, whose peak memory only they can have raised."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, json.dumps(sys.path)],
        input=json.dumps(sources),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    results = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(results) == len(sources)
    worst_memory = max(results, key=lambda r: r[2])
    assert worst_memory[2] < 50, worst_memory
    # A second is about ten times the plain loop that is measured beside them.
    slowest = max(results, key=lambda r: r[4])
    assert slowest[4] < 15, slowest
    return [end for _, end, *_ in results]


def test_bombs_end_in_an_error_within_a_budget():
    ends = measured(BOMBS)
    assert [bomb for bomb, end in zip(BOMBS, ends, strict=True) if not LIMIT.search(end)] == []


def test_no_pattern_takes_long_or_much_memory():
    ends = measured(list(PATTERNS))
    wanted = PATTERNS.values()
    assert [end for end, want in zip(ends, wanted, strict=True) if want not in end] == []


def test_the_same_expression_always_ends_the_same_way():
    """The budget counts sizes, not seconds: a replay ends as the run did."""
    largest = Expression("range(100000) | map('string') | join | length", AT)
    assert evaluate(largest, {}) == 488_890
    over = Expression("range(100000) | map('string') | map('upper') | list | sort | list", AT)
    messages = set()
    for _ in range(3):
        with pytest.raises(TemplateError) as caught:
            evaluate(over, {})
        messages.add(str(caught.value))
    assert len(messages) == 1


def test_large_data_that_is_only_passed_on_costs_nothing():
    log = "x" * 20_000_000
    assert render(Template("{{ log }}", AT), {"log": log}) is log
    rows = [[n] for n in range(500_000)]
    assert render(Template("{{ a.rows }}", AT), {"a": {"rows": rows}}) is rows
