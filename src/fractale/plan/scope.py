"""The names that the templates and rules of a plan may use, and errors in their use."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Literal

from fractale.errors import Problem
from fractale.plan.expressions import Reference, references, syntax_problems
from fractale.plan.expressions.functions import FUNCTIONS
from fractale.plan.flow import Flow
from fractale.plan.inputs import InputSpec
from fractale.plan.kinds import KINDS
from fractale.plan.model import HANDLERS, SUCCESS, Plan, Step
from fractale.plan.values import Expression, Value
from fractale.text import listing, nearest

Place = Literal["template", "item", "rule", "output", "reason"]
"""Where a text is: in a step, in `when` or `foreach` (without an item), a rule, an output, or the
reason of an end, which sees its own step's outputs."""

STEP_PARTS: Final = ("outputs", "inputs", "outcome", "error", "attempts")
PREVIOUS_PARTS: Final = ("name", "outcome", "error", "outputs")
RUN_PARTS: Final = ("id", "plan", "dir")
ENDED_PARTS: Final = ("outcome", "failed")
"""The further parts of `run` in the steps of a handler."""
FAILED_PARTS: Final = ("step", "error")
TOP: Final = ("inputs", "steps", "previous", "run")
ITEM: Final = ("item", "index")
NAMED: Final = "values"
"""What `set` steps named. Only a plan with such a step has it: elsewhere, a rule may mean an
output of this name."""
_ORDER: Final = ("", *HANDLERS)
"""The steps of the plan run before those of `on_failure`, and these before those of `finally`."""
_DEFAULT: Final = "write `| default('')`"
ATTEMPTS: Final = "attempts"
"""The number of the step's attempt, from 1, in its templates as in its rules."""
RULE_NAMES: Final = (*TOP, *ITEM, "outputs", "content", "error", ATTEMPTS)
"""The names that a rule sees beside the outputs' own keys."""


@dataclass(frozen=True, slots=True)
class Placed:
    """A step, its path in the plan, the parallel block around it, and the handler that it is in."""

    step: Step
    path: str
    block: Step | None = None
    handler: str = ""

    @property
    def owner(self) -> Step:
        """The top-level step of the plan that runs it."""
        return self.block or self.step


@dataclass(frozen=True, slots=True)
class Text:
    """A value with templates, or an expression, and its position in the plan."""

    value: Value | Expression
    path: str
    place: Place
    within: Placed | None = None
    key: str = ""


def placed_steps(plan: Plan, prefix: str) -> Iterator[Placed]:
    """Every step of a plan with its path, not those of chains and included plans."""
    yield from _placed(plan.steps, f"{prefix}steps", "")
    for key, handler in plan.handlers.items():
        yield from _placed(handler.steps, f"{prefix}{key}", key)


def _placed(steps: Sequence[Step], key: str, handler: str) -> Iterator[Placed]:
    for index, step in enumerate(steps):
        path = f"{key}[{index}]"
        yield Placed(step, path, handler=handler)
        for number, inner in enumerate(step.steps):
            yield Placed(inner, f"{path}.parallel[{number}]", step, handler)


def texts_of(placed: Placed) -> Iterator[Text]:
    """All texts of a step that may contain a template or an expression."""
    step, path = placed.step, placed.path
    for key, value in step.templates():
        yield Text(value, f"{path}.{key}", "template", placed, key)
    if step.reason is not None:
        yield Text(step.reason, f"{path}.reason", "reason", placed, "reason")
    if step.when:
        yield Text(step.when, f"{path}.when", "item", placed, "when")
    for key, expression in _foreach_expressions(step):
        yield Text(expression, f"{path}.{key}", "item", placed, key)
    if step.until:
        yield Text(step.until, f"{path}.until", "rule", placed, "until")
    counts: dict[str, int] = {}
    for rule in step.rules:
        number = counts[rule.event] = counts.get(rule.event, -1) + 1
        key = f"rules.{rule.event}[{number}]"
        yield Text(rule.expression, f"{path}.{key}", "rule", placed, key)


def _foreach_expressions(step: Step) -> Iterator[tuple[str, Expression]]:
    if step.foreach is None:
        return
    items = step.foreach.items
    if isinstance(items, Expression):
        yield "foreach", items
    elif not isinstance(items, tuple):
        for name, part in items.items():
            if isinstance(part, Expression):
                yield f"{step.foreach.prefix}.{name}", part


def is_per_item(step: Step) -> bool:
    """Whether the step's `when` is asked for each item of its foreach: it reads the item."""
    if step.foreach is None or step.when is None:
        return False
    return any(reference.path[0] in ITEM for reference in references(step.when))


def outputs_of_plan(plan: Plan, prefix: str) -> Iterator[Text]:
    """The templates of a plan's outputs."""
    for name, value in plan.outputs.items():
        yield Text(value, f"{prefix}outputs.{name}", "output")


def _cut_at_a_comma(problem: Problem, value: Value | Expression) -> Problem:
    """The problem with a hint if an item of a list lacks a bracket."""
    source = value.source if isinstance(value, Expression) else ""
    if not problem.path.endswith("]") or source.count("(") == source.count(")"):
        return problem
    hint = "an expression with a comma in it needs quotes in a list in brackets"
    return replace(problem, message=f"{problem.message}; {hint}")


@dataclass(frozen=True, slots=True)
class Around:
    """The names that a chain sees around it, and the step that has the chain."""

    scope: Scope
    placed: Placed


@dataclass(slots=True)
class Scope:
    """The names of one plan, or of one chain.

    Args:
        plan: The plan, or the chain.
        flow: The transitions of its steps.
        prefix: The path of the plan inside another.
        around: Of a chain, the names around it.
        handlers: The transitions of the steps of its handlers.
    """

    plan: Plan
    flow: Flow
    prefix: str = ""
    around: Around | None = None
    handlers: Mapping[str, Flow] = field(default_factory=dict[str, Flow])
    _placed: dict[str, Placed] = field(init=False)
    _setters: dict[str, list[Placed]] = field(init=False)
    _hidden: dict[str, str] = field(init=False)
    """A step inside a chain → the step that has the chain."""

    def __post_init__(self) -> None:
        self._placed = {p.step.name: p for p in placed_steps(self.plan, self.prefix)}
        self._setters = {}
        for placed in self._placed.values():
            for name in placed.step.value_names:
                self._setters.setdefault(name, []).append(placed)
        self._hidden = {
            inner.name: name
            for name, placed in self._placed.items()
            for inner in (placed.step.chain.walk() if placed.step.chain else ())
        }

    @property
    def value_names(self) -> Collection[str]:
        """The names that visible `set` steps set."""
        return {*self._setters, *(self.around.scope.value_names if self.around else ())}

    @property
    def _top(self) -> tuple[str, ...]:
        return (*TOP, NAMED) if self.value_names else TOP

    @property
    def inputs(self) -> Mapping[str, InputSpec]:
        """The inputs of the plan, which its chains see."""
        return self.around.scope.inputs if self.around else self.plan.inputs

    @property
    def has_item(self) -> bool:
        """Whether each of the steps belongs to an item of a foreach around it."""
        if self.around is None:
            return False
        return self.around.placed.step.foreach is not None or self.around.scope.has_item

    @property
    def steps(self) -> dict[str, Step]:
        """The visible steps by name."""
        own = {name: placed.step for name, placed in self._placed.items()}
        return {**self.around.scope.steps, **own} if self.around else own

    def problems(self) -> Iterator[Problem]:
        """Every fault of the plan's templates and expressions."""
        yield from self._set_twice()
        for placed in placed_steps(self.plan, self.prefix):
            for text in texts_of(placed):
                yield from self._text_problems(text)
        for text in outputs_of_plan(self.plan, self.prefix):
            yield from self._text_problems(text)

    def _set_twice(self) -> Iterator[Problem]:
        """Steps of one parallel block that set the same name: the later one would win."""
        for name, setters in self._setters.items():
            first: dict[str, Placed] = {}
            for placed in setters:
                other = first.setdefault(placed.block.name, placed) if placed.block else placed
                if other is not placed:
                    message = (
                        f"`{other.step.name}` sets `{name}` at the same time, in the block "
                        f"`{other.owner.name}`; use another name"
                    )
                    where = placed.step.where(f"set.{name}")
                    path = f"{placed.path}.set.{name}"
                    yield Problem("set-twice", message, where, path, len(name))

    def _text_problems(self, text: Text) -> Iterator[Problem]:
        for found in syntax_problems(text.value, text.path):
            problem = _cut_at_a_comma(found, text.value)
            yield problem if problem.position else self._placed_problem(problem, text)
        excused: list[str] = []
        for reference in references(text.value):
            problem = None if reference.path[0] in excused else self._problem(reference, text)
            if problem:
                yield problem
                excused += _rest_of_name(problem.suggestion)

    def _placed_problem(self, problem: Problem, text: Text) -> Problem:
        """A problem of plain text, which does not have its own position."""
        key = problem.path.removeprefix(text.path.removesuffix(text.key))
        where = text.within.step.where(key) if text.within else self.plan.position
        return Problem(problem.code, problem.message, where, problem.path, problem.length)

    def _problem(self, reference: Reference, text: Text) -> Problem | None:
        top = reference.path[0]
        if top == "steps" and len(reference.path) > 1:
            return self._step_problem(reference, text)
        if top == "inputs" and len(reference.path) > 1:
            return self._input_problem(reference, text)
        if top == NAMED and len(reference.path) > 1 and (self.value_names or text.place != "rule"):
            return self._value_problem(reference, text)
        if top == "previous" and (problem := self._previous_problem(reference, text)):
            return problem
        if top in ("previous", "run") and len(reference.path) > 1:
            if top == "run" and reference.path[1] in ENDED_PARTS:
                return _ended_problem(reference, text)
            parts = PREVIOUS_PARTS if top == "previous" else RUN_PARTS
            return _unknown_part(reference, text, 1, parts)
        return self._top_problem(reference, text)

    def _previous_problem(self, reference: Reference, text: Text) -> Problem | None:
        """The problem that no step, or no failed step, may have led to this one."""
        here = text.within
        if here is None or text.place == "rule" or text.key == "when":
            return None  # in a rule, a missing name is false
        if here.step.when or here.owner.when:
            return None  # it may say when the step has a `previous`
        owner = here.owner.name
        is_first = owner == self.plan.steps[0].name and self.around is None
        if is_first and not reference.optional:
            message = f"the plan begins with `{owner}`: then there is no `previous`; {_DEFAULT}"
            return _at(reference, text, 0, "not-yet-run", message)
        if reference.path[1:2] != ("error",) or reference.exact:
            return None
        for step in self.plan.steps:
            if self.plan.target_of(step, SUCCESS) == owner:
                message = f"`{step.name}` leads here if it succeeds, and has no `error` then; "
                problem = _at(reference, text, 1, "no-error", message + _DEFAULT)
                return replace(problem, severity="warning")
        return None

    def _top_problem(self, reference: Reference, text: Text) -> Problem | None:
        name = str(reference.path[0])
        if name in self._top:
            return None
        if text.place == "rule":
            return _rule_problem(reference, text)
        inside = text.within is not None and text.within.step.foreach is not None
        if name == "index" and _is_of_element(text):
            return None
        if name in ITEM:
            right = "inside the inputs, the instruction and the `when` of a step with `foreach`"
            own = inside and (text.place == "template" or text.key == "when")
            fits = own or self.has_item
            return None if fits else _undefined(reference, text, 0, f"it is known only {right}", ())
        if name == ATTEMPTS:
            right = "it is known only inside a step; elsewhere write `steps.NAME.attempts`"
            return None if text.within else _undefined(reference, text, 0, right, ())
        if reference.optional:
            return None
        item = ITEM if inside or self.has_item else ()
        known = [*self._top, *((ATTEMPTS,) if text.within else ()), *item]
        if name in FUNCTIONS:
            return _undefined(reference, text, 0, f"it is a function: `{name}(…)`", ())
        meant = self._meant(name) or nearest(name, known)
        if text.place == "reason" and text.within and not meant:
            meant = f"steps.{text.within.step.name}.outputs.{name}"
        return _undefined(reference, text, 0, f"the names are {listing(known)}", (), meant)

    def _meant(self, name: str) -> str | None:
        if name in self.inputs:
            return f"inputs.{name}"
        if name in self.value_names:
            return f"{NAMED}.{name}"
        return f"steps.{name}.outputs" if name in self.steps else None

    def _input_problem(self, reference: Reference, text: Text) -> Problem | None:
        name = reference.path[1]
        if name in self.inputs:
            return self._secret_problem(reference, text)
        if reference.optional:
            return None
        message = "the plan declares no `inputs`"
        if self.inputs:
            message = f"the plan's inputs are {listing(self.inputs)}"
        # Jinja reads `inputs.run-time` as a subtraction.
        hyphened = next((n for n in self.inputs if n.startswith(f"{name}-")), None)
        meant = f"inputs['{hyphened}']" if hyphened else None
        return _undefined(reference, text, 1, message, self.inputs, meant)

    def _secret_problem(self, reference: Reference, text: Text) -> Problem | None:
        if not self.inputs[str(reference.path[1])].secret:
            return None
        if text.within and text.within.step.value_names and text.place == "template":
            message = (
                f"`{reference.path[1]}` is secret, and a named value is kept as `***`; write "
                f"`inputs.{reference.path[1]}` where the secret is needed"
            )
            return _at(reference, text, 1, "secret-in-value", message)
        if text.within and text.within.step.kind == "ask" and text.key == "default":
            message = (
                f"`{reference.path[1]}` is secret, and an answer is kept as `***`; write "
                f"`inputs.{reference.path[1]}` where the secret is needed"
            )
            return _at(reference, text, 1, "secret-in-default", message)
        if not _is_of_job(text):
            return None
        kind = text.within.step.kind if text.within else "job"
        message = (
            f"`{reference.path[1]}` is secret, and a {kind} is written to disk as it is submitted; "
            f"have the {kind} read the secret from a file of yours"
        )
        return _at(reference, text, 1, "secret-in-job", message)

    def _value_problem(self, reference: Reference, text: Text) -> Problem | None:
        """The problem that no step can have set a value by then."""
        name, here = str(reference.path[1]), text.within
        if self.around and name in self.around.scope.value_names:
            outside = replace(text, within=self.around.placed)
            found = self.around.scope._value_problem(reference, outside)
            if found is None or name not in self._setters:
                return found
        setters = self._setters.get(name)
        if setters is None:
            message = "no `set` step of the plan sets it"
            return _undefined(reference, text, 1, message, self.value_names)
        if here is None:
            late = {placed.handler for placed in setters}
            if "" in late or reference.optional:
                return None
            message = f"`{name}` is set in `{min(late, key=HANDLERS.index)}`, which runs after this"
            return _at(reference, text, 1, "not-yet-set", message)
        if reference.optional:
            return None
        if text.place in ("rule", "reason") and any(placed.step is here.step for placed in setters):
            return None  # a rule of the step that sets it sees the new value
        if any(self._can_set_before(placed, here) for placed in setters):
            return None
        message = (
            f"`{name}` cannot have been set when the run first enters `{here.step.name}`; set it "
            "before, or write `| default(…)`"
        )
        return _at(reference, text, 1, "not-yet-set", message)

    def _can_set_before(self, setter: Placed, here: Placed) -> bool:
        """Whether a `set` step can have run when the run first enters another step."""
        if setter.handler != here.handler:
            return _ORDER.index(setter.handler) < _ORDER.index(here.handler)
        flow = self.handlers[here.handler] if here.handler else self.flow
        first, then = setter.owner.name, here.owner.name
        known = flow.can_run(first) and flow.can_run(then)
        return not known or flow.can_come_first(first, then)

    def _step_problem(self, reference: Reference, text: Text) -> Problem | None:
        name = str(reference.path[1])
        placed = self._placed.get(name)
        if placed is None:
            return self._other_step_problem(reference, text)
        return (
            self._order_problem(reference, text, placed)
            or self._part_problem(reference, text, placed.step)
            or _output_problem(reference, text, placed.step)
        )

    def _other_step_problem(self, reference: Reference, text: Text) -> Problem | None:
        """The problem with a step that is not one of these: around the chain, inside one, none."""
        name = str(reference.path[1])
        if name in self._hidden:
            chain = self._hidden[name]
            message = f"it is inside `{chain}`, whose outputs are those of its last step"
            return _undefined(reference, text, 1, message, (), f"steps.{chain}.outputs")
        if self.around is None:
            return _undefined(reference, text, 1, "no step has this name", self.steps)
        found = self.around.scope._step_problem(reference, replace(text, within=self.around.placed))
        if found and found.code == "undefined" and name not in self.around.scope.known:
            return _undefined(reference, text, 1, "no step has this name", self.steps)
        return found

    @property
    def known(self) -> set[str]:
        """The steps of the plan that have a name here, visible or inside a chain."""
        names = {*self._placed, *self._hidden}
        return names | self.around.scope.known if self.around else names

    def _order_problem(self, reference: Reference, text: Text, placed: Placed) -> Problem | None:
        """The problem that the other step cannot have run."""
        here = text.within
        name = placed.step.name
        if text.place == "reason" and here and placed.owner is here.owner:
            return None
        if _ORDER.index(placed.handler) > _ORDER.index(here.handler if here else ""):
            message = f"`{name}` is in `{placed.handler}`, which runs after this"
            return _at(reference, text, 1, "not-yet-run", message)
        if here is None or placed.handler != here.handler:
            return None
        flow = self.handlers[here.handler] if here.handler else self.flow
        if placed.block and placed.block is here.block:
            message = (
                f"`{name}` runs at the same time, in the block `{placed.block.name}`: a step of "
                "the block cannot use it"
            )
            return _at(reference, text, 1, "inside-parallel", message)
        owners = (placed.owner.name, here.owner.name)
        known = all(flow.can_run(owner) for owner in owners)
        if reference.optional or not known or flow.can_precede(*owners):
            return None
        message = f"`{name}` cannot have run before `{here.step.name}`"
        if placed.step is here.step:
            message = f"`{name}` has not run yet when it is entered, and nothing leads back to it"
        return _at(reference, text, 1, "not-yet-run", message)

    def _part_problem(self, reference: Reference, text: Text, step: Step) -> Problem | None:
        if len(reference.path) < 3 or reference.path[2] in STEP_PARTS:
            return None
        part = str(reference.path[2])
        near = nearest(part, STEP_PARTS) or f"outputs.{part}"
        message = f"a step has {listing(STEP_PARTS)}"
        return _undefined(reference, text, 2, message, (), near)


def _ended_problem(reference: Reference, text: Text) -> Problem | None:
    """The problem with a name that only the steps of a handler have."""
    part, here = str(reference.path[1]), text.within
    if here is None or not here.handler:
        message = f"it is known only in the steps of {listing(HANDLERS)}"
        return _undefined(reference, text, 1, message, ())
    if part != "failed" or len(reference.path) < 3:
        return None
    if reference.path[2] not in FAILED_PARTS:
        known = f"`run.failed` has {listing(FAILED_PARTS)}"
        return _undefined(reference, text, 2, known, FAILED_PARTS)
    if here.handler == "on_failure" or reference.optional or text.place != "template":
        return None
    when = here.owner.when or here.step.when
    if when is not None and any(each.path[0] == "run" for each in references(when)):
        return None
    message = (
        f"`run.failed.{reference.path[2]}` is there only if the plan failed; add `| default('')`, "
        "or `when: run.outcome == 'failed'`"
    )
    found = _at(reference, text, 1, "only-if-failed", message)
    return replace(found, severity="warning")


def _output_problem(reference: Reference, text: Text, step: Step) -> Problem | None:
    """The outputs of a block, or of a plan that declares its outputs, are known."""
    if len(reference.path) < 4 or reference.path[2] != "outputs" or step.foreach:
        return None
    names = KINDS[step.kind].output_names(step)
    if names is None:
        return None
    if reference.path[3] in names or reference.optional:
        return None
    return _undefined(
        reference, text, 3, f"the outputs of `{step.name}` are {listing(names)}", names
    )


def _rule_problem(reference: Reference, text: Text) -> Problem | None:
    """In a rule, any name may be a key of the outputs, unless the outputs are known."""
    step = text.within.step if text.within else None
    name = str(reference.path[0])
    if step is None or reference.optional or name in RULE_NAMES or name in FUNCTIONS:
        return None
    names = KINDS[step.kind].rule_names(step)
    if names is None or name in names:
        return None
    message = (
        f"the {'question' if step.kind == 'ask' else step.kind}'s outputs are {listing(names)}"
    )
    return _undefined(reference, text, 0, message, [*names, *RULE_NAMES])


def _is_of_element(text: Text) -> bool:
    """Whether a text is rendered for each element of an array."""
    step = text.within.step if text.within else None
    job = step.job if step else None
    if job is None or job.array is None or text.place != "template":
        return False
    return text.key != f"{job.prefix}array"


def _is_of_job(text: Text) -> bool:
    step = text.within.step if text.within else None
    job = step.job if step else None
    return job is not None and text.key.removeprefix(job.prefix) in job.values()


def _rest_of_name(suggestion: str | None) -> list[str]:
    """The words of a name with hyphens, which Jinja reads as separate names."""
    if not suggestion or not suggestion.startswith("inputs['"):
        return []
    return suggestion.removesuffix("']").split("-")[1:]


def _unknown_part(
    reference: Reference, text: Text, index: int, parts: Collection[str]
) -> Problem | None:
    if reference.path[index] in parts:
        return None
    return _undefined(reference, text, index, f"`{reference.path[0]}` has {listing(parts)}", parts)


def _undefined(
    reference: Reference,
    text: Text,
    index: int,
    message: str,
    names: Collection[str],
    suggestion: str | None = None,
) -> Problem:
    part = str(reference.path[index])
    near = suggestion or nearest(part, names)
    return _at(reference, text, index, "undefined", f"`{part}` is not defined: {message}", near)


def _at(
    reference: Reference,
    text: Text,
    index: int,
    code: str,
    message: str,
    suggestion: str | None = None,
) -> Problem:
    length = len(str(reference.path[index]))
    return Problem(code, message, reference.positions[index], text.path, length, suggestion)
