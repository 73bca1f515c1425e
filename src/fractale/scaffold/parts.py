"""Adds a step to a plan, a tool to a registry, or an agent to either.

The new text is checked before a file is changed, and a file is replaced whole or not at all.
"""

from __future__ import annotations

import importlib.util
import keyword
import os
import re
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

from fractale.errors import PlanError, Problem, UsageError
from fractale.plan.build import load_plan
from fractale.plan.check import file_problems
from fractale.plan.expressions.values import is_list, is_mapping
from fractale.registry.files import load_registry
from fractale.scaffold.editing import add_item, quoted
from fractale.scaffold.project import REGISTRY

StepForm = Literal["script", "job", "tool", "agent"]

_STEP_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
_MODULE_NAME: Final = re.compile(r"[a-z][a-z0-9_]*")

_SCRIPT: Final[str] = """\
script: |
  echo "replace this by your commands"
"""
_JOB: Final[str] = """\
job:
  time: 10m
  script: |
    #!/bin/bash
    echo "replace this by your commands"
"""
_TOOL_MODULE: Final = '''\
"""A tool of this project. Its signature is the schema, its docstring the description."""


def {name}(text: str) -> dict[str, int]:
    """Count the lines of a text. Replace this by what your tool does.

    Args:
        text: The text.
    """
    return {{"lines": len(text.splitlines())}}
'''
_TOOL_TEST: Final = '''\
"""Tests of the tool `{name}`."""

from pathlib import Path

TOOLS = [Path(__file__).parent / "{registry}"]
PLAN = """
name: {name}
steps:
  - {{name: call, tool: {name}, inputs: {{text: "a\\\\nb\\\\n"}}}}
outputs: {{found: "{{{{ steps.call.outputs }}}}"}}
"""


def test_{name}_counts_lines(run_plan):
    assert run_plan(PLAN, registries=TOOLS).outputs["found"] == {{"lines": 2}}
'''
_AGENT_MODULE: Final = '''\
"""A sub-agent of this project: a Python class, which plans ask with `agent: {name}`."""

from typing import Any


class Agent:
    """Its schemas describe the inputs and the outputs."""

    name = "{name}"
    description = "Reports the length of its task. Replace this by what your agent does."
    input_schema = {{
        "type": "object",
        "properties": {{"instruction": {{"type": "string", "description": "The task."}}}},
        "required": ["instruction"],
        "annotations": {{"fractale.type": "agent"}},
    }}
    output_schema = {{
        "type": "object",
        "properties": {{"words": {{"type": "integer"}}}},
        "required": ["words"],
    }}

    async def __call__(self, instruction: str, **_others: Any) -> dict[str, Any]:
        return {{"words": len(instruction.split())}}
'''
_AGENT_TEST: Final = '''\
"""Tests of the agent `{name}`."""

from pathlib import Path

TOOLS = [Path(__file__).parent / "{registry}"]
PLAN = """
name: {name}
steps:
  - {{name: ask, agent: {name}, instruction: two words}}
outputs: {{found: "{{{{ steps.ask.outputs.words }}}}"}}
"""


def test_{name}_counts_words(run_plan):
    assert run_plan(PLAN, registries=TOOLS).outputs["found"] == 2
'''


@dataclass(frozen=True, slots=True, kw_only=True)
class Added:
    """The files that a command added or changed.

    Args:
        written: New files.
        changed: Files that existed, with a new entry.
        warnings: Problems of the changed plan that do not keep it from running.
        next: The command to type next.
    """

    written: tuple[Path, ...] = ()
    changed: tuple[Path, ...] = ()
    warnings: tuple[Problem, ...] = ()
    next: str

    def as_dict(self) -> dict[str, Any]:
        """The result as JSON."""
        return {
            "written": [str(path) for path in self.written],
            "changed": [str(path) for path in self.changed],
            "warnings": [str(problem) for problem in self.warnings],
            "next": self.next,
        }


# -- a step -----------------------------------------------------------------------------------


def new_step(
    name: str,
    plan: Path,
    *,
    form: StepForm = "script",
    target: str = "",
    instruction: str | None = None,
    input_schema: Mapping[str, Any] | None = None,
    after: str | None = None,
) -> Added:
    """Add a step to a plan.

    Args:
        form: Its kind.
        target: The tool, or the agent; empty for the general agent.
        instruction: The task of an agent.
        input_schema: Of the tool: a value for each required input is written.
        after: The step that it follows; None: the last one.

    Raises:
        UsageError: The name is not valid or is taken, or the file has another form.
        PlanError: The plan is invalid, before or after.
    """
    if not _STEP_NAME.fullmatch(name):
        raise UsageError(
            f"`{name}` is not a valid name of a step",
            hint="use letters, digits, `_` and `-`, with a letter first",
        )
    if any(step.name == name for step in load_plan(plan).steps):
        raise UsageError(f"{plan} already has a step `{name}`", hint="choose another name")
    lines = [f"- name: {name}", *_body(form, target, instruction, input_schema)]
    item = [lines[0], *(f"  {line}" if line else "" for line in lines[1:])]
    text = add_item(_text_of(plan), "steps", item, after=after)
    warnings = _replace(plan, text, _problems_of_plan)
    return Added(changed=(plan,), warnings=warnings, next=f"fractale run {plan} --dry-run")


def _body(
    form: StepForm, target: str, instruction: str | None, input_schema: Mapping[str, Any] | None
) -> list[str]:
    """The lines of a step below its name."""
    if form == "script":
        return [*_SCRIPT.splitlines()]
    if form == "job":
        return [*_JOB.splitlines()]
    if form == "tool":
        return [f"tool: {quoted(target)}", *_required(input_schema or {})]
    words = instruction or "Replace this by the task."
    kind = f"agent: {quoted(target)}" if target else "type: agent"
    return [kind, "instruction: |", *textwrap.indent(words, "  ").splitlines()]


def _required(schema: Mapping[str, Any]) -> Iterator[str]:
    """A value for each required input of a tool."""
    properties: Mapping[str, Any] = schema.get("properties") or {}
    needed = [str(name) for name in schema.get("required") or ()]
    if needed:
        yield "inputs:"
    for name in needed:
        yield f"  {quoted(name)}: {_example(properties.get(name))}"


def _example(schema: Any) -> str:
    """A value of a schema's type, as YAML."""
    examples = {"integer": "1", "number": "1.0", "boolean": "false", "array": "[]", "object": "{}"}
    found: dict[str, Any] = {**schema} if is_mapping(schema) else {}
    choices: Any = found.get("enum")
    first: Any = choices[0] if is_list(choices) and choices else None
    if isinstance(first, str):
        return quoted(first)
    return examples.get(str(found.get("type")), '"replace this"')


# -- a tool -----------------------------------------------------------------------------------


def new_tool(name: str, registry: Path | None = None) -> Added:
    """Add a Python function as a tool: its module, its registry entry and its test.

    Args:
        registry: The registry file; made if it does not exist. None: that of a new project.

    Raises:
        UsageError: The name is not valid or is taken, or a file cannot be written.
        PlanError: The registry is invalid.
    """
    path = f"{name}.{name}"
    note = "  annotations: {readOnlyHint: true}     # remove it if the tool changes anything"
    entry = [f"- path: {path}", note]
    return _new_module(name, registry, entry, _TOOL_MODULE, _TOOL_TEST)


def new_python_agent(name: str, registry: Path | None = None) -> Added:
    """Add a Python class as an agent, as `new_tool` adds a function.

    Raises:
        UsageError, PlanError: As `new_tool`.
    """
    return _new_module(
        name, registry, [f"- path: {name}.Agent", f"  name: {name}"], _AGENT_MODULE, _AGENT_TEST
    )


def _new_module(
    name: str, registry: Path | None, entry: Sequence[str], module: str, test: str
) -> Added:
    file = registry or Path(REGISTRY)
    if ":" in file.name:
        raise UsageError(
            f"{file} comes with fractale and cannot be changed",
            hint=f"name a file of your own: --registry {REGISTRY}",
        )
    _check_module(name, file)
    old = ""
    if file.exists():
        old = _text_of(file)
        listed = {each.name or each.path.rpartition(".")[2] for each in load_registry(file).entries}
        if name in listed:
            raise UsageError(f"{file} already lists `{name}`", hint="choose another name")
    text = add_item(old, "tools", entry)
    root = file.parent.parent if file.parent.name == "registries" else file.parent
    tests = root / "tests"
    words = {"name": name, "registry": Path(os.path.relpath(file, tests)).as_posix()}
    new = {
        file.parent / f"{name}.py": module.format(**words),
        tests / f"test_{name}.py": test.format(**words),
    }
    for path in new:
        if path.exists() or path.is_symlink():
            raise UsageError(f"{path} exists", hint="choose another name")
    for path, content in new.items():
        _write_new(path, content)
    written = (*new, *(() if old else (file,)))
    try:
        if old:
            _replace(file, text, _problems_of_registry)
        else:
            _write_new(file, text.lstrip("\n"))
    except (UsageError, PlanError):
        for path in new:
            path.unlink(missing_ok=True)
        raise
    return Added(
        written=written,
        changed=(file,) if old else (),
        next=f"python -m pytest {tests / f'test_{name}.py'}",
    )


def _check_module(name: str, registry: Path) -> None:
    """A name must be one of a function and of a module that nothing else has.

    Raises:
        UsageError: It is not.
    """
    if not _MODULE_NAME.fullmatch(name) or keyword.iskeyword(name):
        raise UsageError(
            f"`{name}` is not a valid name of a Python function",
            hint="use lower-case letters, digits and `_`, with a letter first",
        )
    own = registry.parent / f"{name}.py"
    if not own.exists() and (name in sys.stdlib_module_names or importlib.util.find_spec(name)):
        raise UsageError(
            f"`{name}` is the name of an installed Python module",
            hint=f"choose another name, such as `my_{name}`",
        )


# -- an agent in a plan -----------------------------------------------------------------------


def new_agent(name: str, plan: Path, instruction: str | None = None) -> Added:
    """Add an agent to a plan: a model with a role in your own words.

    Args:
        instruction: Its role.

    Raises:
        UsageError: The name is not valid or is taken, or the file has another form.
        PlanError: The plan is invalid, before or after.
    """
    if not _STEP_NAME.fullmatch(name):
        raise UsageError(
            f"`{name}` is not a valid name of an agent",
            hint="use letters, digits, `_` and `-`, with a letter first",
        )
    if any(getattr(agent, "name", None) == name for agent in load_plan(plan).agents):
        raise UsageError(f"{plan} already has an agent `{name}`", hint="choose another name")
    role = instruction or "You are an expert on … Replace this by the agent's role."
    item = [
        f"- name: {name}",
        "  instruction: |",
        *textwrap.indent(role, "    ").splitlines(),
        "  tools: []                   # names or globs of the tools that it may call",
    ]
    text = add_item(_text_of(plan), "agents", item, before_key="steps")
    warnings = _replace(plan, text, _problems_of_plan)
    step = f"fractale new step ask-{name} --plan {plan} --agent {name}"
    return Added(changed=(plan,), warnings=warnings, next=step)


# -- files ------------------------------------------------------------------------------------


def _text_of(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from error


def _problems_of_plan(path: Path) -> list[Problem]:
    return file_problems(path)[1]


def _problems_of_registry(path: Path) -> list[Problem]:
    try:
        return list(load_registry(path).warnings)
    except PlanError as error:
        return error.problems


def _replace(path: Path, text: str, check: Callable[[Path], list[Problem]]) -> tuple[Problem, ...]:
    """Replace the content of a file that exists, if the new content is valid; its mode stays.

    Args:
        check: Finds the problems of the new content, in a file beside the old one.

    Returns:
        Warnings about the new content.

    Raises:
        PlanError: The new content would be invalid; the old content stays.
        UsageError: It cannot be written; the old content stays.
    """
    target = path.resolve()
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(text.encode("utf-8"))
        problems = [_renamed(problem, str(part), str(path)) for problem in check(part)]
        if errors := [problem for problem in problems if problem.severity == "error"]:
            raise PlanError(errors)
        part.chmod(target.stat().st_mode & 0o777)
        part.replace(target)
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror or error}") from error
    finally:
        part.unlink(missing_ok=True)
    return tuple(problems)


def _renamed(problem: Problem, part: str, file: str) -> Problem:
    """A problem at the same place of the file itself."""
    place = problem.position
    if place is None or place.file != part:
        return problem
    return replace(problem, position=replace(place, file=file))


def _write_new(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror or error}") from error
