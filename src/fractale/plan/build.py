"""A tree of nodes → a `Plan`: every structural problem of a file at once.

What a plan *means* (do its steps exist, can they be reached, is every name defined) is checked
by `fractale.plan.check` on the result.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from fractale.errors import PlanError, Position, Problem
from fractale.plan.fields import Fields, Reader, join
from fractale.plan.model import Plan, Step
from fractale.plan.scalars import looks_octal
from fractale.plan.source import read_file, read_source
from fractale.plan.specs import read_agents, read_inputs, read_limits, read_servers
from fractale.plan.steps import StepReader
from fractale.plan.values import value
from fractale.plan.words import PLAN_HINTS, PLAN_KEYS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fractale.plan.node import Node
    from fractale.plan.steps import Include

MAX_INCLUDES: Final = 20
"""How deep plan files may include each other."""

MAX_STEPS: Final = 10_000
"""How many steps a plan may have, with those of included plans each time they are included."""


def load_plan(path: str | Path) -> Plan:
    """Read a plan file, with the files that it includes.

    Args:
        path: Positions name it as given here; included files are found from its folder.

    Returns:
        The plan; its structure is right, its meaning is not checked yet.

    Raises:
        PlanError: All problems of the file, and of the files it includes.
    """
    return _Loader().load(Path(path), ())


def parse_plan(
    text: str | bytes, file: str = "<string>", *, include: Include | None = None
) -> Plan:
    """Read a plan from text.

    Args:
        text: YAML.
        file: What positions are to name.
        include: Gives the plan of a `plan: FILE` step; without it such a step is an error.

    Raises:
        PlanError: All problems.
    """
    return build_plan(read_source(text, file), file, include=include)


def build_plan(node: Node, file: str, *, include: Include | None = None) -> Plan:
    """Make a plan of a tree of nodes.

    Args:
        node: The root, as `read_source` gives it.
        file: The path as the person gave it.
        include: Gives the plan of a `plan: FILE` step, for its path and position; without it
            such a step is an error.

    Raises:
        PlanError: All problems, in file order.
    """
    reader = Reader()
    fields = reader.fields(node, "", PLAN_KEYS, "a plan", PLAN_HINTS)
    if fields is None:
        raise PlanError(reader.problems.errors)
    plan = Plan(
        name=_name(fields),
        steps=_steps(fields, include),
        description=fields.text("description"),
        inputs=read_inputs(fields),
        agents=read_agents(fields),
        servers=read_servers(fields),
        limits=read_limits(fields),
        outputs={key: value(child) for key, _, child in fields.entries("outputs")},
        file=file,
        position=node.position,
        warnings=tuple(_octal_looking(node, "")),
    )
    _check_nesting(reader, plan)
    if problems := reader.problems.errors:
        # A step that could not be read at all would make every mention of it an error, too.
        whole = len(plan.steps) == sum(1 for _ in fields.items("steps"))
        raise PlanError(problems, plan if whole else None)
    return plan


def _name(fields: Fields) -> str:
    node = fields.get("name")
    if node is None:
        fields.fail("name", "missing-key", "a plan needs `name`")
        return ""
    return fields.reader.text(node, "name", "`name`") or ""


def _steps(fields: Fields, include: Include | None) -> tuple[Step, ...]:
    node = fields.get("steps")
    if node is None or node.value == []:
        fields.fail("steps", "missing-key", "a plan needs `steps`: a list of at least one")
        return ()
    steps = StepReader(fields.reader, include)
    return tuple(step for path, item in fields.items("steps") if (step := steps.read(item, path)))


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
    """Included plans go no deeper than the plan's own limit."""
    most = plan.limits.depth
    if most is None:
        return
    for step in plan.walk():
        if step.plan and 1 + _nesting(step.plan, {}) > most:
            message = f"plans nest deeper here than this plan's `limits.depth` of {most}"
            length = len(step.target or "")
            reader.keep(Problem("too-deep-plan", message, step.where("plan"), length=length))


def _nesting(plan: Plan, known: dict[int, int]) -> int:
    """How many levels of plans there are inside a plan; a plan is counted once."""
    if id(plan) not in known:
        inner = (1 + _nesting(step.plan, known) for step in plan.walk() if step.plan)
        known[id(plan)] = max(inner, default=0)
    return known[id(plan)]


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
            above: The files that include each other down to this one.
        """
        resolved = path.resolve()

        def include(name: str, position: Position) -> Plan:
            return self._include(path.parent / name, position, (*above, resolved))

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
            message = f"there is no file `{path}` to include"
            raise PlanError([Problem("missing-include", message, position)])
        return self._once(path, resolved, above)

    def _once(self, path: Path, resolved: Path, above: tuple[Path, ...]) -> Plan:
        """A file is read once, however often it is included."""
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
