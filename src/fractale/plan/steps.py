"""The steps of a plan: their kinds, their keys, what each does."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from fractale.errors import PlanError
from fractale.plan.fields import Fields, Reader, join
from fractale.plan.job import read_job
from fractale.plan.model import (
    END_FAILED,
    FAILURE,
    RESERVED_STEP_NAMES,
    JobPlan,
    Plan,
    Retry,
    Step,
    StepKind,
    Template,
    Value,
)
from fractale.plan.output_schema import read_output_schema
from fractale.plan.rules import NAME, read_foreach, read_rules, read_transitions, read_when
from fractale.plan.values import positions, template, value
from fractale.plan.words import (
    APPROVE,
    INCLUDED_MISPLACED,
    INSTRUCTION_INPUTS,
    JOB_ONLY,
    KINDS,
    MISPLACED,
    RETRY_KEYS,
    STEP_HINTS,
    STEP_KEYS,
)
from fractale.text import clip

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from fractale.errors import Position
    from fractale.plan.node import Node

    Include = Callable[[str, Position], Plan]

_MODEL = re.compile(r"[A-Za-z0-9_-]+:\S+", re.ASCII)
_NEVER_EMPTY = ("foreach", "when", "tools", "allow_tools", "approve")
"""Keys that an empty value would silently leave out: the step would do more than was meant."""


@dataclass(slots=True)
class StepReader:
    """Reads the steps of one plan.

    Args:
        reader: Collects the problems.
        include: Gives the plan of a `plan: FILE` step; None where none may be included.
    """

    reader: Reader
    include: Include | None
    names: dict[str, Node] = field(default_factory=dict[str, "Node"])

    def read(self, node: Node, path: str, *, inside: bool = False) -> Step | None:
        """One step; None if there is not even a mapping.

        Args:
            node: The step's mapping.
            path: Where in the plan.
            inside: It stands in a parallel block.
        """
        fields = self.reader.fields(node, path, STEP_KEYS, "a step", STEP_HINTS)
        if fields is None:
            return None
        kind = _kind(fields)
        _check_keys(fields, kind)
        inputs = _inputs(fields)
        included = self._included(fields) if kind == "plan" else None
        return Step(
            name=self._name(fields),
            kind=kind,
            target=_target(fields, kind),
            description=fields.text("description"),
            instruction=_instruction(fields, kind, inputs),
            inputs=inputs,
            tools=_tools(fields),
            rules=read_rules(fields),
            transitions=read_transitions(fields),
            when=read_when(fields),
            foreach=read_foreach(fields),
            steps=self._parallel(fields, inside=inside) if kind == "parallel" else (),
            plan=included,
            job=_job(fields) if kind == "job" else None,
            keep_going=fields.flag("keep_going") or False,
            retry=_retry(fields),
            timeout=fields.seconds("timeout"),
            max_attempts=fields.whole("max_attempts"),
            approve=fields.choice("approve", APPROVE),
            output_schema=_output_schema(fields),
            judge=fields.flag("judge") or False,
            model=_model(fields),
            persist=fields.flag("persist") or False,
            position=node.position,
            positions=_positions(node),
        )

    def _name(self, fields: Fields) -> str:
        node = fields.get("name")
        if node is None:
            fields.fail("name", "missing-key", "a step needs `name`")
            return ""
        name = self.reader.text(node, join(fields.path, "name"), "`name`")
        if name is None:
            return ""
        if not NAME.fullmatch(name):
            right = "a letter, then letters, digits, `_`, `-`"
            fields.fail("name", "bad-name", f"`{clip(name)}` cannot name a step: {right}")
        elif name in RESERVED_STEP_NAMES:
            fields.fail("name", "bad-name", f"`{name}` is where a plan ends; choose another name")
        elif (first := self.names.setdefault(name, node)) is not node:
            line = first.position.line
            fields.fail("name", "duplicate-step", f"line {line} has a step `{name}` already")
        return name

    def _included(self, fields: Fields) -> Plan | None:
        node = fields.get("plan")
        if node is None or not isinstance(node.value, str):
            return None
        path = node.value
        if "://" in path or "{{" in path:
            fields.fail("plan", "bad-include", "`plan` must be the path of a local file")
        elif self.include is None:
            fields.fail("plan", "bad-include", "only a plan file can include another file")
        else:
            return self._load(self.include, path, node, join(fields.path, "plan"))
        return None

    def _load(self, include: Include, file: str, node: Node, path: str) -> Plan | None:
        try:
            return include(file, node.position)
        except PlanError as error:
            # Problems of the included file keep their own places; those of including it are
            # told here, with the whole path underlined.
            for problem in error.problems:
                if problem.position == node.position:
                    self.reader.fail(problem.code, problem.message, node, path)
                else:
                    self.reader.keep(problem)
        return None

    def _parallel(self, fields: Fields, *, inside: bool) -> tuple[Step, ...]:
        if inside:
            message = "a parallel block cannot stand inside another; put its steps there instead"
            fields.fail("parallel", "nested-parallel", message)
            return ()
        found = [
            step
            for path, node in fields.items("parallel")
            if (step := self.read(node, path, inside=True))
        ]
        node = fields.get("parallel")
        if node is None or node.value == []:
            fields.fail("parallel", "missing-key", "a parallel block needs a list of steps")
        return tuple(found)


def _kind(fields: Fields) -> StepKind:
    """What the step is: the key that names a kind, else `type`, else an agent (as in 0.1.0)."""
    given: list[StepKind] = [kind for kind in KINDS if kind in fields]
    said: StepKind | None = fields.choice("type", KINDS)
    if not given:
        return said or "agent"
    for other in given[1:]:
        message = f"a step has one of {', '.join(f'`{kind}`' for kind in KINDS)}; this has two"
        fields.fail(other, "two-kinds", message)
    # `agent` was the default type of 0.1.0, also beside `tool:` and `prompt:`.
    overruled = said == "agent" and given[0] in ("tool", "prompt")
    if said and said not in given and not overruled:
        fields.fail("type", "two-kinds", f"`type: {said}` stands beside `{given[0]}:`; keep one")
    return said if said in given and said else given[0]


def _check_keys(fields: Fields, kind: StepKind) -> None:
    misplaced, reason = MISPLACED[kind]
    if kind == "plan" and fields.get("plan"):
        misplaced = INCLUDED_MISPLACED
    for key in STEP_KEYS:
        if key in misplaced and fields.get(key) is not None:
            fields.fail(key, "misplaced-key", f"`{key}` {reason}")
        elif kind != "job" and key in JOB_ONLY and fields.get(key) is not None:
            message = f"`{key}` belongs to a job; a step that submits one has `type: job`"
            fields.fail(key, "misplaced-key", message)
    for key in _NEVER_EMPTY:
        if key in fields and fields.get(key) is None:
            message = f"`{key}` is empty; give it a value, or leave the key out"
            fields.fail(key, "empty-value", message)
    if fields.get("max_parallel") and "foreach" not in fields and kind != "parallel":
        fields.fail("max_parallel", "misplaced-key", "`max_parallel` needs `foreach` beside it")
    several = "foreach" in fields or kind in ("parallel", "job")  # a job may be an array
    if fields.get("keep_going") and not several:
        message = "`keep_going` needs `foreach`, `parallel` or a job array beside it"
        fields.fail("keep_going", "misplaced-key", message)


def _job(fields: Fields) -> JobPlan | None:
    job = read_job(fields)
    if job is not None and job.array is not None and "foreach" in fields:
        message = (
            "`array` stands in a step with `foreach`; keep one: a `foreach` over jobs is "
            "submitted as an array anyway"
        )
        fields.fail("foreach", "misplaced-key", message)
    return job


def _target(fields: Fields, kind: StepKind) -> str | None:
    if kind in ("parallel", "job"):
        return None
    if kind == "plan":
        return fields.text("plan") or None
    if kind != "agent" and fields.get(kind) is None:
        fields.fail(kind, "missing-key", f"a {kind} step needs `{kind}`: its name")
    return fields.name(kind)


def _inputs(fields: Fields) -> dict[str, Value]:
    return {key: value(node) for key, _, node in fields.entries("inputs")}


def _instruction(
    fields: Fields, kind: StepKind, inputs: Mapping[str, Value]
) -> str | Template | None:
    node = fields.get("instruction")
    if node is not None and isinstance(node.value, str):
        return template(node)
    if node is not None:
        fields.wrong("instruction", "text")
    return inherited_instruction(kind, fields.text("plan"), inputs) if node is None else None


def inherited_instruction(
    kind: StepKind, file: str | None, inputs: Mapping[str, Value]
) -> str | Template | None:
    """The instruction that a step's inputs hold, as in 0.1.0.

    Args:
        kind: The step's kind; a tool's inputs are its arguments and nothing else.
        file: The plan that the step includes, whose inputs are its own too.
        inputs: The step's inputs.
    """
    if kind in ("tool", "parallel", "job") or file:
        return None
    found = (inputs.get(key) for key in INSTRUCTION_INPUTS)
    return next((text for text in found if isinstance(text, (str, Template)) and text), None)


def _tools(fields: Fields) -> tuple[str, ...] | None:
    allowed = fields.flag("allow_tools")
    node = fields.get("tools")
    if node is None:
        return () if allowed is False else None
    if isinstance(node.value, str):
        names = [fields.name("tools")]
    else:
        names = [
            fields.reader.name(item, path, "the name of a tool")
            for path, item in fields.items("tools")
        ]
    if allowed is False and names:
        fields.fail("allow_tools", "contradiction", "`allow_tools: false`, but `tools` lists some")
    return tuple(name for name in names if name)


def _retry(fields: Fields) -> Retry | None:
    node = fields.get("retry")
    path = join(fields.path, "retry")
    retry = fields.reader.fields(node, path, RETRY_KEYS, "`retry`", {}) if node else None
    if retry is None:
        return None
    given = {
        "attempts": retry.whole("attempts"),
        "delay": retry.seconds("delay", zero=True),
        "backoff": retry.real("backoff", least=1),
        "max_delay": retry.seconds("max_delay", zero=True),
    }
    return Retry(**cast("dict[str, Any]", {key: n for key, n in given.items() if n is not None}))


def _output_schema(fields: Fields) -> dict[str, Any] | None:
    node = fields.get("output_schema")
    if node is None:
        return None
    if not isinstance(node.value, dict):
        fields.wrong("output_schema", "a JSON Schema, which is a mapping")
        return None
    return read_output_schema(fields.reader, node, join(fields.path, "output_schema"))


def _model(fields: Fields) -> str | None:
    model = fields.name("model")
    if model and not _MODEL.fullmatch(model):
        message = (
            f"a model is written `provider:name`, such as `openai:gpt-4.1`, not `{clip(model)}`"
        )
        fields.fail("model", "bad-value", message)
    return model


def _positions(node: Node) -> dict[str, Position]:
    """Where the step's parts stand, without those of the steps of a parallel block."""
    return {
        _normal(path): position
        for path, position in positions(node).items()
        if not path.startswith("parallel[")
    }


def _normal(path: str) -> str:
    for key in ("rules", "transitions"):
        prefix = f"{key}.{END_FAILED}"
        if path == prefix or path.startswith((f"{prefix}[", f"{prefix}.")):
            return f"{key}.{FAILURE}{path[len(prefix) :]}"
    return path
