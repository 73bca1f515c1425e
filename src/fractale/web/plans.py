"""The plan files of the working directory, and the form that starts one of them."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from fractale.errors import InputError, Problem
from fractale.plan.check import file_problems
from fractale.plan.inputs import InputSpec
from fractale.plan.model import Plan
from fractale.render.problems import file_lines, show_problems
from fractale.render.text import inert
from fractale.web.environment import as_sent
from fractale.web.questions import Field

INPUT: Final = "input."
"""Before the name of an input, in a form."""
MOST_PLANS: Final = 500
MOST_BYTES: Final = 1024 * 1024
"""A larger file is not looked at."""
FOLDERS: Final = ("", "plans", "plans/examples", "plans/parts")
_STEPS = re.compile(rb"^steps[ \t]*:", re.MULTILINE)
_SUBJECT = re.compile(rb"(?:name|description)[ \t]*:[ \t]*(.*)", re.DOTALL)
_BLOCK = re.compile(rb"[|>][-+0-9]*[ \t]*(?:#.*)?", re.DOTALL)
_HEAD = 64 * 1024
"""The first bytes of a file, in which its subject is looked for."""
_LONG = 60
"""A default longer than this, or with several lines, has a field of several lines."""


@dataclass(frozen=True, slots=True)
class PlanFile:
    """A plan file.

    Args:
        name: Its path below the directory; names it in an address.
        title: What the file says about itself; not checked.
    """

    name: str
    path: Path
    title: str = ""


def plan_files(directory: Path) -> dict[str, PlanFile]:
    """The plan files of a directory and its directory ``plans``, by name.

    A file is a plan if it has the key ``steps``; it may be wrong otherwise.
    """
    found: dict[str, PlanFile] = {}
    for folder in FOLDERS:
        for path in _yaml_files(directory / folder):
            name = path.relative_to(directory).as_posix()
            if len(found) < MOST_PLANS and (title := _title(path)) is not None:
                found[name] = PlanFile(name, path, title)
    return found


def _yaml_files(folder: Path) -> Iterator[Path]:
    try:
        with os.scandir(folder) as entries:
            names = sorted(e.name for e in entries if e.is_file() and not e.name.startswith("."))
    except OSError:
        return
    yield from (folder / name for name in names if name.endswith((".yaml", ".yml")))


def _title(path: Path) -> str | None:
    """The subject of a plan file; None if the file is not a plan."""
    try:
        if path.stat().st_size > MOST_BYTES:
            return None
        data = path.read_bytes()
    except OSError:
        return None
    if not _STEPS.search(data):
        return None
    return inert(_subject(data[:_HEAD]).decode("utf-8", "replace").strip().strip("\"'"), 120)


def _subject(data: bytes) -> bytes:
    """The last name or description in the first lines of a plan file."""
    found, lines = b"", iter(data.splitlines())
    for line in lines:
        if subject := _SUBJECT.fullmatch(line):
            words = subject[1].strip()
            if _BLOCK.fullmatch(words):
                words = next((each for each in lines if each.strip()), b"")
            found = words or found
    return found


@dataclass(frozen=True, slots=True)
class CheckedPlan:
    """A plan file as ``fractale validate`` sees it.

    Args:
        plan: None if the file cannot be read as a plan.
        problems: As text; empty if there are none.
        is_valid: Whether it can run.
    """

    plan: Plan | None
    problems: str
    is_valid: bool


def checked(path: Path) -> CheckedPlan:
    """Check a plan file."""
    plan, problems = file_problems(path)
    text = show_problems(problems, file_lines(), color=False) if problems else ""
    return CheckedPlan(plan, text, plan is not None and not any(map(_is_error, problems)))


def _is_error(problem: Problem) -> bool:
    return problem.severity == "error"


# -- the form of a plan's inputs -------------------------------------------------------------------


def fields_of(plan: Plan, given: Mapping[str, str] | None = None) -> list[Field]:
    """The fields of the form that starts a plan.

    Args:
        given: Texts typed before, by input; they replace the defaults.
    """
    return [_field(spec, (given or {}).get(spec.name)) for spec in plan.inputs.values()]


def _field(spec: InputSpec, given: str | None) -> Field:
    options = [(as_text(value), inert(as_text(value), 200)) for value in spec.enum or ()]
    if spec.type == "boolean" or isinstance(spec.default, bool):
        options = [("true", "yes"), ("false", "no")]
    value = as_text(spec.default) if given is None else given
    about = [inert(spec.description, 400), spec.type or ""]
    about += [f"at least {spec.minimum:g}"] if spec.minimum is not None else []
    about += [f"at most {spec.maximum:g}"] if spec.maximum is not None else []
    long = "\n" in as_sent(value) or len(value) > _LONG or spec.type in ("object", "array")
    kind = "secret" if spec.secret else "choice" if options else "long" if long else "text"
    return Field(
        INPUT + spec.name,
        inert(spec.name, 80),
        kind,
        "" if spec.secret else value,
        " · ".join(filter(None, about)),
        spec.required,
        options,
    )


def with_problems(fields: list[Field], error: Exception | None) -> list[Field]:
    """Fields of a plan's inputs that say what an error found wrong with them."""
    wrong = error.of_inputs if isinstance(error, InputError) else {}
    said = {name: inert(words, 1000) for name, words in wrong.items()}
    return [replace(each, problem=said.get(each.name.partition(".")[2], "")) for each in fields]


def as_text(value: Any) -> str:
    """A value as text from which `fractale.plan.inputs.convert` makes it again."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


@dataclass(frozen=True, slots=True)
class Given:
    """The inputs in a form.

    Args:
        texts: Input → the text that was typed, also if it is the default.
        inputs: Those that differ from the default, or have none.
        secrets: The secret inputs.
    """

    texts: Mapping[str, str]
    inputs: Mapping[str, str]
    secrets: Mapping[str, str]


def given_in(plan: Plan, form: Mapping[str, str]) -> Given:
    """The inputs in a submitted form. An empty field is an input that was not given."""
    texts: dict[str, str] = {}
    inputs: dict[str, str] = {}
    secrets: dict[str, str] = {}
    for name, spec in plan.inputs.items():
        text = form.get(INPUT + name)
        if text is None:
            continue
        text = as_sent(text)
        if spec.secret:
            if text:
                secrets[name] = text
            continue
        texts[name] = text
        if text != as_sent(as_text(spec.default)) and (text or spec.default):
            inputs[name] = text
    return Given(texts, inputs, secrets)
