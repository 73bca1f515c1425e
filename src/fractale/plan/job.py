"""The batch job of a step: what is submitted, and which figures are read from its log."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Final, cast

from fractale.durations import parse_duration
from fractale.plan.fields import Fields, join
from fractale.plan.model import Figure, FigureType, JobPlan, Take, Template, Value
from fractale.plan.specs import INPUT_NAME_PATTERN
from fractale.plan.values import template
from fractale.plan.words import FIGURE_KEYS, FIGURE_TYPES, JOB_KEYS, JOB_OUTPUTS, SCHEDULERS, TAKES
from fractale.text import clip

if TYPE_CHECKING:
    from fractale.plan.node import Node

ENV_NAME_PATTERN: Final = "[A-Za-z_][A-Za-z0-9_]*"
MEMORY_PATTERN: Final = "[0-9]+(\\.[0-9]+)?([KMGT]i?B?)?"
_SPAN = "[0-9]{1,9}(-[0-9]{1,9}(:[1-9][0-9]{0,8})?)?"
ARRAY_PATTERN: Final = f"{_SPAN}(,{_SPAN})*(%[1-9][0-9]{{0,8}})?"
MOST_COUNT: Final = 1_000_000
MOST_ELEMENTS: Final = 10_000
"""Of an array in a job step, whose elements are tasks of the run."""

COUNTS: Final[Mapping[str, int]] = {
    "nodes": 1,
    "tasks": 1,
    "cores_per_task": 1,
    "gpus_per_task": 0,
}
"""Keys that are whole numbers, and the least of each."""

_BRACES = re.compile(r"\{\{.*?\}\}", re.DOTALL)
_HOLE = "\x00"


def read_job(step: Fields) -> JobPlan | None:
    """The job of a job step, from what is below `job`, or beside the step's own keys."""
    node = step.get("job")
    if node is None or not isinstance(node.value, dict):
        if node is not None:
            step.wrong("job", f"a mapping (of {', '.join(f'`{key}`' for key in JOB_KEYS[:4])} …)")
            return None
        return _read(step, "")
    for key in JOB_KEYS:
        if key in step:
            message = f"`{key}` stands beside `job:`; put it below that with the rest"
            step.fail(key, "misplaced-key", message)
    fields = step.reader.fields(node, join(step.path, "job"), JOB_KEYS, "a job", _HINTS)
    return _read(fields, "job.") if fields else None


_HINTS: Final = {
    "walltime": "write `time`",
    "partition": "write `queue`",
    "timeout": "write `time` for the job's limit, or `timeout` beside `job:` for the whole wait",
    "ntasks": "write `tasks`",
    "cpus_per_task": "write `cores_per_task`",
    "gpus": "write `gpus_per_task`",
    "environment": "write `env`",
    "cwd": "write `folder`",
    "sandbox": "write `confine`",
}


def _read(fields: Fields, prefix: str) -> JobPlan:
    script, command = _script(fields), _command(fields)
    if (script is None) == (not command) and not _is_faulty(fields):
        both = "has both `script` and `command`; keep one" if command else None
        message = f"a job {both or 'needs `script` or `command`: what it runs'}"
        at = fields.at("command" if command else "type")
        fields.reader.fail("missing-key", message, at, fields.path)
    confine = fields.flag("confine")
    for key in ("writable", "network"):
        if not confine and fields.get(key) is not None:
            message = f"`{key}` says what a confined job may do; add `confine: true`"
            fields.fail(key, "missing-key", message)
    return JobPlan(
        script=script,
        command=command,
        **{key: _count(fields, key, least) for key, least in COUNTS.items()},
        array=_array(fields),
        memory=_fitting(fields, "memory", MEMORY_PATTERN, "an amount such as `4G` or `500M`"),
        time=_time(fields),
        queue=_name(fields, "queue"),
        account=_name(fields, "account"),
        env=_env(fields),
        folder=_text(fields, "folder"),
        scheduler=_scheduler(fields),
        confine=confine,
        writable=_writable(fields),
        network=fields.flag("network"),
        outputs=_figures(fields),
        prefix=prefix,
    )


def _is_faulty(fields: Fields) -> bool:
    """Whether one of the two is there, and something is wrong with it that was told already."""
    both = fields.get("script") is not None and fields.get("command") is not None
    return not both and any(fields.get(key) is not None for key in ("script", "command"))


def _script(fields: Fields) -> str | Template | None:
    node = fields.get("script")
    if node is None:
        return None
    text = fields.reader.text(node, join(fields.path, "script"), "`script`")
    return template(node) if text is not None else None


def _command(fields: Fields) -> tuple[Value, ...]:
    node = fields.get("command")
    if node is None:
        return ()
    if isinstance(node.value, str):
        return _words(fields, node)
    if not isinstance(node.value, list) or not node.value:
        fields.wrong("command", "a list of words, the program first, or one line of text")
        return ()
    words: list[Value] = []
    for path, item in fields.items("command"):
        if isinstance(item.value, (dict, list)) or item.value is None:
            message = f"a word of a command must be text or a number, not {item.found()}"
            fields.reader.fail("wrong-type", message, item, path)
        words.append(template(item) if isinstance(item.value, str) else item.source)
    return tuple(words)


def _words(fields: Fields, node: Node) -> tuple[Value, ...]:
    """The words of a line as a shell splits it; what is in braces is one word, or part of one."""
    text = cast("str", node.value)
    holes = list(_BRACES.finditer(text))
    try:
        words = shlex.split(_BRACES.sub(_HOLE, text))
    except ValueError as error:
        fields.fail("command", "bad-value", f"`command` cannot be split into words: {error}")
        return ()
    if not words:
        fields.wrong("command", "a list of words, the program first, or one line of text")
    filled = iter(holes)
    return tuple(_word(word, filled, node) for word in words)


def _word(word: str, holes: Iterator[re.Match[str]], node: Node) -> Value:
    """A word with what was in its braces; it knows its own place in the line."""
    if _HOLE not in word:
        return word
    found = [next(holes) for _ in range(word.count(_HOLE))]
    parts = iter(found)
    at = node.position
    if "\n" not in cast("str", node.value):
        at = replace(at, column=at.column + found[0].start() - word.index(_HOLE))
    return Template(re.sub(_HOLE, lambda _: next(parts)[0], word), at)


def _templated(fields: Fields, key: str, read: Callable[[Node], Value | None]) -> Value:
    """A value that may be a template instead; without one it must be right as it stands."""
    node = fields.get(key)
    if node is None:
        return None
    if isinstance(node.value, str) and "{{" in node.value:
        return template(node)
    return read(node)


def _count(fields: Fields, key: str, least: int) -> Value:
    def read(node: Node) -> Value:
        number = fields.whole(key, least)
        if number is not None and number > MOST_COUNT:
            fields.fail(key, "bad-value", f"`{key}` must be at most {MOST_COUNT:,}")
        return number

    return _templated(fields, key, read)


def _time(fields: Fields) -> Value:
    return _templated(fields, "time", lambda _: fields.seconds("time"))


def _name(fields: Fields, key: str) -> Value:
    return _templated(fields, key, lambda _: fields.name(key))


def _text(fields: Fields, key: str) -> Value:
    return _templated(fields, key, lambda _: fields.text(key) or None)


def _scheduler(fields: Fields) -> Value:
    return _templated(fields, "scheduler", lambda _: fields.choice("scheduler", SCHEDULERS))


def _writable(fields: Fields) -> tuple[Value, ...]:
    node = fields.get("writable")
    if node is None:
        return ()
    if isinstance(node.value, str):
        return (template(node),)
    found: list[Value] = []
    for path, item in fields.items("writable"):
        if fields.reader.text(item, path, "a folder of `writable`") is not None:
            found.append(template(item))
    return tuple(found)


def _fitting(fields: Fields, key: str, pattern: str, right: str) -> Value:
    def read(node: Node) -> Value:
        plain = not isinstance(node.value, (bool, dict, list))
        if plain and re.fullmatch(pattern, node.source.strip()):
            return node.source.strip()
        fields.wrong(key, right)
        return None

    return _templated(fields, key, read)


def _array(fields: Fields) -> Value:
    right = "indices such as `1-100`, `0-9:3` or `1,5,7-9%2`"
    found = _fitting(fields, "array", ARRAY_PATTERN, right)
    if isinstance(found, str):
        count = _count_of(found)
        if count is None or count > MOST_ELEMENTS:
            why = (
                "has a part without an index: the first must not be above the last"
                if count is None
                else f"has {count:,} elements, and a step has at most {MOST_ELEMENTS:,}"
            )
            fields.fail("array", "bad-value", f"`array: {found}` {why}")
            return None
    return found


def _count_of(array: str) -> int | None:
    """How many indices a literal array names; None where a part of it has none."""
    indices: set[int] = set()
    for part in array.partition("%")[0].split(","):
        ends, _, step = part.strip().partition(":")
        first, _, last = ends.partition("-")
        span = range(int(first), int(last or first) + 1, int(step or 1))
        if not span:
            return None
        if len(span) > MOST_ELEMENTS:
            return len(span)
        indices.update(span)
    return len(indices)


def _env(fields: Fields) -> dict[str, Value]:
    found: dict[str, Value] = {}
    for name, key, node in fields.entries("env"):
        path = join(join(fields.path, "env"), clip(name))
        if not re.fullmatch(ENV_NAME_PATTERN, name):
            message = f"`{clip(name)}` cannot be the name of a variable: letters, digits, `_`"
            fields.reader.fail("bad-name", message, key, path)
        elif isinstance(node.value, (dict, list)) or node.value is None:
            message = f"a variable must be text or a number, not {node.found()}"
            fields.reader.fail("wrong-type", message, node, path)
        elif isinstance(node.value, str):
            found[name] = template(node)
        else:
            found[name] = node.source
    return found


def _figures(fields: Fields) -> dict[str, Figure]:
    found: dict[str, Figure] = {}
    for name, key, node in fields.entries("outputs"):
        path = join(join(fields.path, "outputs"), clip(name))
        if not re.fullmatch(INPUT_NAME_PATTERN, name):
            message = f"`{clip(name)}` cannot be the name of an output: letters, digits, `_`, `-`"
            fields.reader.fail("bad-name", message, key, path)
        elif name in JOB_OUTPUTS:
            message = f"every job has an output `{name}`; choose another name"
            fields.reader.fail("bad-name", message, key, path)
        elif figure := _figure(fields, node, path):
            found[name] = figure
    return found


def _figure(fields: Fields, node: Node, path: str) -> Figure | None:
    if isinstance(node.value, str):
        return Figure(pattern=node.value) if _is_pattern(fields, node, path) else None
    noun = "an output of a job (a regular expression, or a mapping)"
    inner = fields.reader.fields(node, path, FIGURE_KEYS, noun, {"regex": "write `pattern`"})
    if inner is None:
        return None
    pattern = inner.get("pattern")
    if pattern is None:
        message = "an output of a job needs `pattern`: where in the log it is"
        inner.fail("pattern", "missing-key", message)
        return None
    required = inner.flag("required")
    kind: FigureType | None = inner.choice("type", FIGURE_TYPES)
    take: Take | None = inner.choice("take", TAKES)
    if not _is_pattern(fields, pattern, join(path, "pattern")):
        return None
    return Figure(
        pattern=cast("str", pattern.value),
        type=kind or "number",
        take=take or "last",
        required=required is not False,
    )


def _is_pattern(fields: Fields, node: Node, path: str) -> bool:
    # Costs some milliseconds to import, and most plans have no job.
    from fractale.plan.regexes import check_pattern

    text = fields.reader.text(node, path, "`pattern`")
    if text is None:
        return False
    try:
        check_pattern(text)
    except ValueError as error:
        fields.reader.fail("bad-pattern", f"this pattern cannot be used: {error}", node, path)
        return False
    return True


def seconds_of(value: object) -> float | None:
    """Seconds of a job's time limit as a template may give it; None where it is no duration."""
    if isinstance(value, bool):
        return None
    try:
        seconds = float(value) if isinstance(value, (int, float)) else parse_duration(str(value))
    except ValueError:
        return None
    return seconds if seconds > 0 else None
