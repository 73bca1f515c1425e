"""The `JobSpec` that a job step submits, from its rendered and checked values."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn, cast

from fractale.errors import PolicyError, TemplateError
from fractale.graph.call import Attempt
from fractale.jobs import Confine, JobSpec
from fractale.plain import to_json
from fractale.plan.job import (
    COUNTS,
    ENV_NAME_PATTERN,
    JOB_KEYS,
    MEMORY_PATTERN,
    MOST_COUNT,
    WIDENING,
    seconds_of,
)
from fractale.schedulers.homes import RUN
from fractale.schedulers.request import Array

TEXTS = ("queue", "account", "folder")

GRACE = 10.0
"""Seconds after a script step's timeout in which fractale itself ends the script. Then the script's
supervisor does, so that no script outlives its time if fractale was killed."""


def arguments_of(attempt: Attempt) -> dict[str, Any]:
    """The job of a step as plain values of the right types, in the form that the user approves.

    Raises:
        TemplateError: A template gave a wrong value.
    """
    return {"name": attempt.step.name, **_checked(attempt, attempt.inputs)}


def spec_of(attempt: Attempt, arguments: Mapping[str, Any]) -> tuple[JobSpec, str | None]:
    """The job, and its scheduler; None: the default one.

    Args:
        arguments: From `arguments_of`, or as the user changed them.

    Raises:
        TemplateError: The arguments are not a valid job.
    """
    known: Any = _checked(attempt, {k: v for k, v in arguments.items() if k in JOB_KEYS})
    scheduler = known.pop("scheduler", None)
    known.pop("outputs", None)  # read after the job
    command = tuple(known.pop("command", ()))
    confine = _confine(attempt, known)
    directory = attempt.context.start_dir / known.pop("folder", "")
    name = str(arguments.get("name") or attempt.step.name)
    if "array" in known:
        known["array"] = Array.parse(known["array"])
    if attempt.step.kind == "script":
        timeout = attempt.step.timeout
        known |= {"short": True, "time": timeout + GRACE if timeout else None}
    spec = JobSpec(name=name, command=command, folder=Path(directory), confine=confine, **known)
    return spec, scheduler


def _confine(attempt: Attempt, known: dict[str, Any]) -> Confine | None:
    """The bounds of a confined job: the step's, and always some if a model drafted the step.

    Raises:
        PolicyError: A drafted step asks for more than it may have.
    """
    asked, drafted = known.pop("confine", None), attempt.context.drafted
    writable, network = tuple(known.pop("writable", ())), known.pop("network", False)
    if drafted and (asked is False or network or writable):
        raise PolicyError(
            "no job was submitted: a planned step may not widen what its job may do",
            hint="a step of your own plan may have `confine: false`, `network` or `writable`",
        )
    if not asked and not (drafted and asked is None):
        return None
    return Confine(writable=writable, network=network, required=bool(asked))


def _checked(attempt: Attempt, values: Mapping[str, Any]) -> dict[str, Any]:
    given = {key: value for key, value in values.items() if value is not None}
    if ("script" in given) == ("command" in given):
        _fail(attempt, "script", "needs `script` or `command`, and not both")
    return {key: _value(attempt, key, value) for key, value in given.items()}


def _value(attempt: Attempt, key: str, value: Any) -> Any:
    if key in COUNTS:
        return _count(attempt, key, value)
    if key in WIDENING:
        return _bound(attempt, key, value)
    own = {"command": _command, "env": _env, "array": _indices, "outputs": _file}.get(key)
    if own is not None:
        return own(attempt, value)
    if key == "stdin":
        return value if isinstance(value, str) else to_json(value)
    if key == "time":
        return seconds_of(value) or _fail(attempt, key, _not("a duration such as `10m`", value))
    if isinstance(value, (dict, list, bool)) or not str(value).strip():
        _fail(attempt, key, _not("text", value))
    text = str(value) if key == "script" else str(value).strip()
    if key == "memory" and not re.fullmatch(MEMORY_PATTERN, text):
        _fail(attempt, key, _not("an amount such as `4G`", value))
    if key == "scheduler" and text not in RUN:
        _fail(attempt, key, _not(f"one of {', '.join(RUN)}", value))
    if key in TEXTS and re.search(r"[\x00-\x1f\x7f]", text):
        _fail(attempt, key, _not("text on one line", value))
    return text


def _file(attempt: Attempt, value: Any) -> dict[str, str]:
    """The file of the job's answer."""
    file = cast("dict[str, Any]", value).get("file") if isinstance(value, dict) else None
    if not isinstance(file, str) or not file.strip() or "\0" in file:
        _fail(attempt, "outputs", _not("the path of a file", file))
    return {"file": file.strip()}


def _indices(attempt: Attempt, value: Any) -> str:
    return str(read_array(attempt, value))


def read_array(attempt: Attempt, value: Any) -> Array:
    """The array of a job step, from the rendered value.

    Raises:
        TemplateError: The value is not an array.
    """
    text = str(value).strip() if not isinstance(value, (bool, dict, list)) else ""
    try:
        return Array.parse(text)
    except ValueError:
        _fail(attempt, "array", _not("indices such as `1-100%10`", value))


def _count(attempt: Attempt, key: str, value: Any) -> int:
    text = str(value).strip()
    whole = int(text) if not isinstance(value, bool) and re.fullmatch("[0-9]{1,9}", text) else None
    if isinstance(value, float) and value.is_integer():
        whole = int(value)
    if whole is None or not COUNTS[key] <= whole <= MOST_COUNT:
        _fail(attempt, key, _not(f"a whole number of at least {COUNTS[key]}", value))
    return whole


def _bound(attempt: Attempt, key: str, value: Any) -> bool | list[str]:
    """A bound of a confined job: directories, or a flag."""
    if key == "writable":
        return [str(each) for each in _command(attempt, value, key)]
    return value if isinstance(value, bool) else _fail(attempt, key, _not("true or false", value))


def _command(attempt: Attempt, value: Any, key: str = "command") -> list[str]:
    """The command's words. A word that is a list becomes several words."""
    words: list[str] = []
    for word in cast("list[Any]", value if isinstance(value, list) else [value]):
        for part in cast("list[Any]", word if isinstance(word, list) else [word]):
            if isinstance(part, (dict, list)) or part is None:
                _fail(attempt, key, _not("a word", part))
            words.append(_text(part))
    if not words or not words[0].strip():
        _fail(attempt, key, "is empty" + (": it needs a program" if key == "command" else ""))
    return words


def _env(attempt: Attempt, value: Any) -> dict[str, str]:
    if not isinstance(value, dict):
        _fail(attempt, "env", _not("a mapping", value))
    found: dict[str, str] = {}
    for name, each in cast("dict[str, Any]", value).items():
        if isinstance(each, (dict, list)) or each is None:
            _fail(attempt, f"env.{name}", _not("text or a number", each))
        if not re.fullmatch(ENV_NAME_PATTERN, name):
            _fail(attempt, "env", f"names a variable `{name[:40]}`: letters, digits, `_`")
        found[name] = _text(each)
    return found


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return str(value)


def _not(right: str, value: Any) -> str:
    return f"must be {right}, not `{str(value)[:60]}`"


def _fail(attempt: Attempt, key: str, words: str) -> NoReturn:
    """Report a wrong value.

    Raises:
        TemplateError: Always.
    """
    job = attempt.step.job
    where = attempt.step.where(f"{job.prefix if job else ''}{key}")
    name = "a job" if key == "script" else f"`{key}`"
    raise TemplateError(f"{name} {words}", position=where)
