"""A tree of nodes → a `Plan`: reports every structural problem of a file at once.

The forms of the keys read most keys (`fractale.plan.forms.read_part`). This module reads the rest:
the names of steps, the kind of a step, the keys of that kind, and files that include each other.

`fractale.plan.check` checks the meaning of the result: whether steps exist and can be reached, and
whether every name is defined.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from fractale import shipped
from fractale.errors import PlanError, Position, Problem
from fractale.plain import to_json
from fractale.plan.ask import check_question
from fractale.plan.defaults import Defaults, read_defaults
from fractale.plan.fields import Fields, Reader, join
from fractale.plan.forms import keys_of, read_part
from fractale.plan.job import JOB_KEYS, SCRIPT_KEYS
from fractale.plan.kinds import KINDS, StepKind, kinds_named
from fractale.plan.model import (
    PLAN_HINTS,
    PLAN_KEYS,
    RESERVED_STEP_NAMES,
    STEP_HINTS,
    STEP_KEYS,
    Limits,
    Plan,
    Step,
    inherited_instruction,
)
from fractale.plan.node import clip, looks_octal
from fractale.plan.rules import END_FAILED, FAILURE, NAME_REGEX
from fractale.plan.source import read_file, read_source
from fractale.plan.values import positions

if TYPE_CHECKING:
    from fractale.plan.node import Node

Include: TypeAlias = Callable[[str, Position], Plan]
"""Returns the plan of a `plan: FILE` step, for its path and position."""

OF_SWEEPS: Final = frozenset({"over", "table", "sample", "run_limits"})
"""Keys that a sweep file has and a plan has not."""

MAX_INCLUDES: Final = 20
"""The maximum depth of plan files that include each other."""

MAX_STEPS: Final = 10_000
"""The most steps of a plan. The steps of an included plan count each time it is included."""


def load_plan(path: str | Path) -> Plan:
    """Read a plan file, with the files that it includes.

    Args:
        path: Positions name it as given here. Paths of included files are relative to its
            directory. ``fractale:NAME`` is a plan that comes with fractale.

    Returns:
        The plan. Its structure is valid; its meaning is not checked yet.

    Raises:
        PlanError: All problems of the file, and of the files it includes.
    """
    file = shipped.located(path, "plan")
    try:
        return _Loader().load(file, ())
    except PlanError as error:
        raise shipped.or_shipped(error, path, "plan") from error


def parse_plan(
    text: str | bytes, file: str = "<string>", *, include: Include | None = None
) -> Plan:
    """Read a plan from text.

    Args:
        text: YAML.
        file: The file name for positions.
        include: Returns the plan of a `plan: FILE` step; without it such a step is an error.

    Raises:
        PlanError: All problems.
    """
    return build_plan(read_source(text, file), file, include=include)


def build_plan(node: Node, file: str, *, include: Include | None = None) -> Plan:
    """Make a plan of a tree of nodes.

    Args:
        node: The root, from `read_source`.
        file: The path as the user gave it.
        include: Returns the plan of a `plan: FILE` step; without it such a step is an error.

    Raises:
        PlanError: All problems, in file order. For a plan in a newer version of the language, only
            that problem.
    """
    reader = Reader()
    if isinstance(node.value, dict) and "steps" not in node.value and OF_SWEEPS & {*node.value}:
        message = f"this is a sweep file, not a plan; write `fractale sweep {file}`"
        reader.fail("not-a-plan", f"{message}, with --dry-run to check it", node, "")
        raise PlanError(reader.problems.errors)
    fields = reader.fields(node, "", PLAN_KEYS, "a plan", PLAN_HINTS)
    if fields is None:
        raise PlanError(reader.problems.errors)
    given: dict[str, Any] = {"name": "", **read_part(PLAN_KEYS, fields)}
    if newer := [p for p in reader.problems.errors if p.code == "newer-version"]:
        raise PlanError(newer)
    limits = given.get("limits", Limits())
    steps = StepReader(reader, include, file, limits, read_defaults(fields))
    plan = Plan(
        **given,
        steps=_steps(fields, steps),
        on_failure=_handler(fields, "on_failure", steps),
        finally_=_handler(fields, "finally", steps),
        file=file,
        position=node.position,
        warnings=tuple(_octal_looking(node, "")),
    )
    _check_nesting(reader, plan)
    if problems := reader.problems.errors:
        # If a step cannot be read, every mention of it would be reported as an error, too.
        lists = (("steps", plan.steps), ("on_failure", plan.on_failure), ("finally", plan.finally_))
        whole = all(len(read) == sum(1 for _ in fields.items(name)) for name, read in lists)
        raise PlanError(problems, plan if whole else None)
    return plan


def read_limits(values: Mapping[str, Any]) -> Limits:
    """Limits from data, with the keys and values of a plan's `limits`.

    Raises:
        PlanError: All problems.
    """
    reader = Reader()
    node = read_source(to_json(dict(values), default=str), "limits")
    fields = reader.fields(node, "", _LIMITS, "`limits`", {})
    found = {} if fields is None else read_part(_LIMITS, fields)
    if problems := reader.problems.errors:
        raise PlanError(problems)
    return Limits(**found)


def _steps(fields: Fields, reader: StepReader) -> tuple[Step, ...]:
    node = fields.get("steps")
    if node is None:
        return ()
    if node.value == []:
        fields.fail("steps", "missing-key", "a plan needs `steps`: a list of at least one")
    return tuple(step for path, item in fields.items("steps") if (step := reader.read(item, path)))


def _handler(fields: Fields, key: str, reader: StepReader) -> tuple[Step, ...]:
    """The steps of ``on_failure`` or ``finally``. Their paths begin with the key."""
    node = fields.get(key)
    if node is None:
        return ()
    if node.value == []:
        fields.fail(key, "empty-value", f"`{key}` is empty; give it a step, or leave the key out")
    if (step := reader.names.get(key)) is not None:
        message = f"`{key}` cannot name a step of a plan with `{key}:`; choose another name"
        reader.reader.fail("bad-name", message, step, "")
    return tuple(step for path, item in fields.items(key) if (step := reader.read(item, path)))


# Steps

_OWN_KEYS: Final = keys_of(Step)
_LIMITS: Final = keys_of(Limits)


@dataclass(slots=True)
class StepReader:
    """Reads the steps of one plan.

    Args:
        reader: Collects the problems.
        include: Returns the plan of a `plan: FILE` step; None: no plan may be included.
        file: The plan's file.
        limits: Of the plan.
        defaults: Of the plan.
    """

    reader: Reader
    include: Include | None
    file: str
    limits: Limits
    defaults: Defaults
    names: dict[str, Node] = field(default_factory=dict[str, "Node"])

    def read(self, node: Node, path: str, *, inside: bool = False) -> Step | None:
        """One step. None if the node is not even a mapping.

        Args:
            node: The step's mapping.
            path: Its path in the plan.
            inside: Whether the step is in a parallel block.
        """
        node = self.defaults.fill(node)
        fields = self.reader.fields(node, path, STEP_KEYS, "a step", STEP_HINTS)
        if fields is None:
            return None
        given = read_part(_OWN_KEYS, fields)
        kind = _kind(fields, given.pop("kind", None))
        _check_keys(fields, kind)
        given |= kind.read(fields, self, inside=inside)
        _put_together(fields, given)
        if kind.name == "ask":
            check_question(fields, given)
        if "instruction" not in fields:
            target, inputs = given.get("target"), given.get("inputs", {})
            given["instruction"] = inherited_instruction(kind.name, target, inputs)
        return Step(
            **given,
            name=self._name(fields),
            kind=kind.name,
            position=node.position,
            positions=_positions(node),
        )

    def chain(self, fields: Fields) -> Plan | None:
        """The steps of a `steps` step. None if there are none."""
        steps = tuple(
            step for path, node in fields.items("steps") if (step := self.read(node, path))
        )
        node = fields.get("steps")
        if node is None or node.value == []:
            fields.fail("steps", "missing-key", "a chain needs a list of steps")
        if node is None or not steps:
            return None
        name = fields.get("name")
        return Plan(
            name=name.source if name else "",
            steps=steps,
            limits=self.limits,
            file=self.file,
            position=node.position,
        )

    def _name(self, fields: Fields) -> str:
        node = fields.get("name")
        name = self.reader.text(node, join(fields.path, "name"), "`name`") if node else None
        if node is None or name is None:
            return ""
        if not NAME_REGEX.fullmatch(name):
            right = "a letter, then letters, digits, `_`, `-`"
            fields.fail("name", "bad-name", f"`{clip(name)}` cannot name a step: {right}")
        elif name in RESERVED_STEP_NAMES:
            fields.fail("name", "bad-name", f"`{name}` is where a plan ends; choose another name")
        elif (first := self.names.setdefault(name, node)) is not node:
            line = first.position.line
            fields.fail("name", "duplicate-step", f"line {line} has a step `{name}` already")
        return name


def _kind(fields: Fields, said: str | None) -> StepKind:
    """The kind that a key names, else the kind in `type`, else an agent (as in 0.1.0)."""
    given = kinds_named(fields, said)
    if not given:
        return KINDS[said or "agent"]
    for other in given[1:]:
        message = f"a step has one of {', '.join(f'`{name}`' for name in KINDS)}; this has two"
        fields.fail(other, "two-kinds", message)
    overruled = said == "agent" and KINDS[given[0]].overrules_agent
    if said and said not in given and not overruled:
        fields.fail("type", "two-kinds", f"`type: {said}` contradicts `{given[0]}:`; keep one")
    return KINDS[said if said in given and said else given[0]]


def _check_keys(fields: Fields, kind: StepKind) -> None:
    """Check that every key fits the step's kind, and that the keys that it needs are present."""
    lacking = kind.lacking(fields)
    for name in fields:
        key = STEP_KEYS.get(name)
        if key is None or fields.get(name) is None or name in KINDS:
            continue  # two kinds are a problem already
        if name in lacking or (key.kinds and kind.name not in key.kinds):
            fields.fail(name, "misplaced-key", f"`{name}` {_misplaced(name, kind)}")
        elif key.needs and not any(need in fields or need == kind.name for need in key.needs):
            *first, last = (f"`{need}`" for need in key.needs)
            needed = f"{', '.join(first)} or {last}" if first else last
            fields.fail(name, "misplaced-key", f"`{name}` needs {needed} beside it")


NOT_CACHED: Final = "has no meaning in a step of the kind `{}`: it makes no call to save"


def _misplaced(name: str, kind: StepKind) -> str:
    if name == "needs":
        return (
            "names the files that a tool, a job or a script needs; steps run in the order of the "
            "file: write `transitions` to change it"
        )
    if name == "cache":
        inside = kind.name in ("parallel", "steps", "plan")
        return "belongs to the steps inside" if inside else NOT_CACHED.format(kind.name)
    if name in SCRIPT_KEYS and kind.name != "script":
        return "belongs to a job or a script; a step has one of `script`, `command` and `job`"
    if name in JOB_KEYS:
        return "belongs to a job; a step that submits one has `type: job`"
    return kind.reason or f"has no meaning in a step of the kind `{kind.name}`"


def _put_together(fields: Fields, given: dict[str, Any]) -> None:
    """Combine keys that set one field: `tools` and `allow_tools`, `foreach` and `max_parallel`."""
    most = given.pop("max_parallel", None)
    if most is not None and "foreach" in given:
        given["foreach"] = replace(given["foreach"], max_parallel=most)
    if given.pop("allow_tools", None) is False:
        if fields.get("tools") is None:
            given["tools"] = ()
        elif fields.value("tools").value:
            message = "`allow_tools: false`, but `tools` lists some"
            fields.fail("allow_tools", "contradiction", message)


def _positions(node: Node) -> dict[str, Position]:
    """The positions of the step's parts, without those of the steps inside it."""
    return {
        _normal(path): position
        for path, position in positions(node).items()
        if not path.startswith(("parallel[", "steps["))
    }


def _normal(path: str) -> str:
    for key in ("rules", "transitions"):
        prefix = f"{key}.{END_FAILED}"
        if path == prefix or path.startswith((f"{prefix}[", f"{prefix}.")):
            return f"{key}.{FAILURE}{path[len(prefix) :]}"
    return path


# The whole plan


def _octal_looking(node: Node, path: str) -> Iterator[Problem]:
    """Integers such as ``0755``, which YAML 1.1 read as octal and YAML 1.2 reads as decimal."""
    if isinstance(node.value, dict):
        for key, child in node.value.items():
            yield from _octal_looking(child, join(path, key))
    elif isinstance(node.value, list):
        for index, child in enumerate(node.value):
            yield from _octal_looking(child, f"{path}[{index}]")
    elif isinstance(node.value, int) and looks_octal(node.source):
        octal = f"0o{node.source.lstrip('+-0') or '0'}"
        message = f"{node.source} is {node.value} here; write {octal} for octal, or quote it"
        yield Problem("leading-zero", message, node.position, path, node.length, severity="warning")


def _check_nesting(reader: Reader, plan: Plan) -> None:
    """Check that included plans nest no deeper than the plan's own limit."""
    most = plan.limits.depth
    if most is None:
        return
    for step in _nested(plan):
        if step.inner and 1 + _nesting(step.inner, {}) > most:
            message = f"plans nest deeper here than this plan's `limits.depth` of {most}"
            length = len(step.target or step.kind)
            where = step.where("plan" if step.plan else "steps")
            reader.keep(Problem("too-deep-plan", message, where, length=length))


def _nested(plan: Plan) -> Iterator[Step]:
    """The steps of a plan, its handlers and its blocks that have a plan or a chain inside."""
    for step in (*plan.steps, *plan.on_failure, *plan.finally_):
        yield from (each for each in (step, *step.steps) if each.inner)


def _nesting(plan: Plan, known: dict[int, int]) -> int:
    """The number of levels of plans and chains inside a plan. Each plan is counted once."""
    if id(plan) not in known:
        inner = (1 + _nesting(step.inner, known) for step in _nested(plan) if step.inner)
        known[id(plan)] = max(inner, default=0)
    return known[id(plan)]


# Files


class _Loader:
    """Loads plan files that include each other, each file once."""

    def __init__(self) -> None:
        self._plans: dict[Path, Plan] = {}
        self._errors: dict[Path, PlanError] = {}
        self._steps: dict[int, int] = {}

    def load(self, path: Path, above: tuple[Path, ...]) -> Plan:
        """Read one file.

        Args:
            path: The file, as positions name it.
            above: The chain of including files that ends at this one.
        """
        resolved = path.resolve()

        def include(name: str, position: Position) -> Plan:
            return self._include(_included(path, name, position), position, (*above, resolved))

        plan = build_plan(read_file(path), str(path), include=include)
        self._count_steps(plan)
        return plan

    def _include(self, path: Path, position: Position, above: tuple[Path, ...]) -> Plan:
        resolved = path.resolve()
        if resolved in above:
            chain = [file.name for file in above[above.index(resolved) :]]
            message = f"plans include each other in a circle: {' → '.join([*chain, path.name])}"
            raise PlanError([Problem("include-cycle", message, position)])
        if len(above) > MAX_INCLUDES:
            message = f"plans include each other more than {MAX_INCLUDES} levels deep"
            raise PlanError([Problem("too-deep-plan", message, position)])
        if not path.is_file():
            message = f"the file `{path}` to include was not found"
            raise PlanError([Problem("missing-include", message, position)])
        return self._once(path, resolved, above)

    def _once(self, path: Path, resolved: Path, above: tuple[Path, ...]) -> Plan:
        """Read a file once, even if it is included several times."""
        if error := self._errors.get(resolved):
            raise error
        if resolved not in self._plans:
            try:
                self._plans[resolved] = self.load(path, above)
            except PlanError as error:
                self._errors[resolved] = error
                raise
        return self._plans[resolved]

    def _count_steps(self, plan: Plan) -> None:
        inner = (self._steps.get(id(step.plan), 0) for step in plan.walk() if step.plan)
        count = sum(1 for _ in plan.walk()) + sum(inner)
        if count > MAX_STEPS:
            message = f"more than {MAX_STEPS:,} steps, with those of the plans that it includes"
            raise PlanError([Problem("too-many-steps", message, plan.position)])
        self._steps[id(plan)] = count


def _included(path: Path, name: str, position: Position) -> Path:
    """The file that a plan includes: relative to the plan, or one that comes with fractale."""
    if not shipped.is_named(name):
        return path.parent / name
    try:
        return shipped.located(name, "plan")
    except PlanError as error:
        problems = [replace(problem, position=position) for problem in error.problems]
        raise PlanError(problems) from error
