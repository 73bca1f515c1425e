"""The spec of a sweep: a plan, the inputs that vary, and what binds all runs.

A `SweepSpec` comes from the command line, from Python, or from a sweep file (`sweep_file`).
`rows_of` makes its table of inputs: one row per run, each value of its input's type. It reports all
problems at once, and writes nothing.

The rows are the product of the table's rows and of the axes, in the order in which they were given,
the last axis fastest. With `sample` they are drawn from the axes instead.

The text of an axis, as ``--over`` and a sweep file have it, is one of

- ``1,2,4``: values, separated by commas and typed as the plan's input,
- ``1..8``, ``0..1:0.25``, ``1..64:*2``: a range with both ends; a step, or a factor, follows `:`,
- ``["a,b", "c"]``: a JSON list, for values with commas.
"""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, cast

from fractale.errors import InputError, Position, Problem, ToolError
from fractale.masking import Masker
from fractale.plain import to_json
from fractale.plan.inputs import InputSpec, bind_inputs, convert, kind_of
from fractale.plan.model import Plan
from fractale.sweeps.tables import Table, TableRow, read_table, refusal, too_many
from fractale.text import clip, count, did_you_mean, shown_value

if TYPE_CHECKING:
    from fractale.agents.space import Parameter

MOST_ROWS: Final = 100_000
"""The most rows of a sweep. The record of each is read at once to show the sweep."""

Algorithm: TypeAlias = Literal["random", "grid"]

_LOW: Final = re.compile(r"[-+]?[0-9]+(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?")
SPACE_KEYS: Final = ("low", "high", "step", "factor", "log")
_DRAW: Final = "draw from it with --sample N (`sample` in a sweep file)"


@dataclass(frozen=True, slots=True)
class Axis:
    """One input that varies, and its values as the user gave them.

    Args:
        given: A text as in the docstring of this module, a list of values, or a mapping with
            `low`, `high`, and `step`, `factor` or `log`.
        place: Where in a sweep file.
    """

    name: str
    given: Any
    place: Position | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepSpec:
    """A sweep as the user asks for it.

    Args:
        plan: The path of the plan's file.
        inputs: The inputs that are the same in all runs.
        over: The axes, in the order of the product.
        table: The path of a table of inputs.
        sample: How many rows to draw from the axes; None: all rows of the product.
        limits: Of the whole sweep: name → amount, see `budget.SWEEP_LIMITS`.
        run_limits: Of each run; they replace the plan's limits of the same name.
        on: The executor: ``local``, or a name of the settings.
        max_parallel: How many runs at a time; None: as many as the executor has workers.
        answers: Answers to questions of the runs: step → answer.
        reuse: As of `RunOptions`: whether steps take over results of earlier runs.
        merit: The output by which rows are compared.
        file: The path of the sweep file, if the sweep comes from one.
        file_text: What the sweep file said, as JSON.
        file_table: The table that the sweep file names, even if another replaces it.
        places: Input of the sweep file → its place.
    """

    plan: str
    inputs: Mapping[str, Any] = field(default_factory=dict[str, Any])
    over: tuple[Axis, ...] = ()
    table: str | None = None
    sample: int | None = None
    seed: int = 0
    algorithm: Algorithm = "random"
    limits: Mapping[str, float] = field(default_factory=dict[str, float])
    run_limits: Mapping[str, float] = field(default_factory=dict[str, float])
    on: str = "local"
    max_parallel: int | None = None
    answers: Mapping[str, Any] = field(default_factory=dict[str, Any])
    reuse: bool | None = None
    merit: str | None = None
    description: str = ""
    file: str | None = None
    file_text: str = ""
    file_table: str | None = None
    places: Mapping[str, Position] = field(default_factory=dict[str, Position])


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """The table of a sweep's inputs, checked and typed.

    Args:
        varied: The names of the inputs that vary, in order.
        constant: All other inputs of the plan, with its defaults; without secret ones, and those
            that are not given and have no default.
        rows: The values of the inputs that vary, one mapping per run.
    """

    varied: tuple[str, ...]
    constant: Mapping[str, Any]
    rows: tuple[Mapping[str, Any], ...]


# -- from the command line and Python -------------------------------------------------------------


def axes_of(value: Mapping[str, Any]) -> tuple[Axis, ...]:
    """Axes from Python: input → a text, a range, a sequence of values, or a mapping.

    Raises:
        InputError: A value is something else.
    """
    found: list[Axis] = []
    for name, given in value.items():
        if isinstance(given, range):
            found.append(Axis(name, list(given)))
        elif isinstance(given, (str, Mapping)):
            found.append(Axis(name, given))
        elif isinstance(given, Iterable):
            found.append(Axis(name, list(cast("Iterable[Any]", given))))
        else:
            raise InputError(
                f"the axis `{name}` cannot be {shown_value(given)}",
                hint='give a list, or a text such as "1..8"',
            )
    return tuple(found)


def axes_from_texts(pairs: Iterable[str]) -> tuple[Axis, ...]:
    """Axes from ``--over NAME=VALUES``.

    Raises:
        InputError: One has no ``=``, or an input is named twice.
    """
    found: dict[str, Axis] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        name = name.strip()
        if not equals or not name:
            raise InputError(
                f"--over {clip(pair)}: write NAME=VALUES", hint="such as --over nodes=1,2,4"
            )
        if name in found:
            raise InputError(
                f"--over names `{name}` twice", hint=f"write all values once: --over {name}=1,2,4"
            )
        found[name] = Axis(name, text)
    return tuple(found.values())


def with_options(
    spec: SweepSpec,
    *,
    over: Iterable[Axis] = (),
    inputs: Mapping[str, Any] | None = None,
    answers: Mapping[str, Any] | None = None,
    limits: Mapping[str, float] | None = None,
    run_limits: Mapping[str, float] | None = None,
    **others: Any,
) -> SweepSpec:
    """A sweep with options of the command line, or keywords, over what its file says.

    Args:
        over: Replace axes of the same name, or come after the others.
        inputs, answers, limits, run_limits: Replace entries of the same name.
        others: Further fields of `SweepSpec`; None leaves a field as it is.
    """
    axes = {axis.name: axis for axis in spec.over} | {axis.name: axis for axis in over}
    return replace(
        spec,
        **{name: value for name, value in others.items() if value is not None},
        over=tuple(axes.values()),
        inputs={**spec.inputs, **(inputs or {})},
        answers={**spec.answers, **(answers or {})},
        limits={**spec.limits, **(limits or {})},
        run_limits={**spec.run_limits, **(run_limits or {})},
    )


# -- rows -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Span:
    """A range of numbers with both ends.

    Args:
        step: Distance of two numbers; None for numbers without steps.
        factor: Quotient of two numbers; then without a `step`.
    """

    low: int | float
    high: int | float
    step: int | float | None = None
    factor: int | float | None = None
    log: bool = False

    @property
    def size(self) -> int | None:
        """How many numbers it has; None if that is infinite."""
        if self.factor is not None:
            return len(self._powers())
        if self.step is None:
            return 1 if self.low == self.high else None
        low, high, step = (Decimal(str(each)) for each in (self.low, self.high, self.step))
        return int((high - low) / step) + 1

    def numbers(self) -> list[int | float]:
        """All its numbers, without binary rounding errors."""
        if self.factor is not None:
            return self._powers()
        low, step = Decimal(str(self.low)), Decimal(str(self.step or 0))
        whole_numbers = isinstance(self.low, int) and isinstance(self.step, int)
        found = (low + index * step for index in range(self.size or 0))
        return [int(each) if whole_numbers else float(each) for each in found]

    def _powers(self) -> list[int | float]:
        low, factor = Decimal(str(self.low)), Decimal(str(self.factor))
        found: list[Decimal] = []
        while low <= Decimal(str(self.high)) and len(found) <= MOST_ROWS:
            found.append(low)
            low *= factor
        whole_numbers = isinstance(self.low, int) and isinstance(self.factor, int)
        return [int(each) if whole_numbers else float(each) for each in found]


_Placed: TypeAlias = tuple[dict[str, Any], Position | None]
"""A row of a table, and its place."""


@dataclass(slots=True)
class _Builder:
    """Makes the rows of a spec, and collects all problems."""

    spec: SweepSpec
    plan: Plan
    masker: Masker
    problems: list[Problem] = field(default_factory=list[Problem])

    def fail(self, code: str, message: str, place: Position | None = None, path: str = "") -> None:
        self.problems.append(Problem(code, self.masker.text(message), place, path))

    def _converted(self, spec: InputSpec, value: Any) -> tuple[Any, str | None]:
        """As `convert`; a value from Python may also be one that JSON lacks."""
        try:
            to_json(value)
        except (TypeError, ValueError):
            return value, f"input `{spec.name}` has a {type(value).__name__}, which is not JSON"
        return convert(spec, value)

    def build(self) -> Rows:
        spec = self.spec
        table = read_table(spec.table, MOST_ROWS) if spec.table else None
        self._check_whole(table)
        self._check_names(table)
        axes = [(axis, values) for axis in spec.over if (values := self._values(axis)) is not None]
        base: list[_Placed] = self._rows_of_table(table) if table else [({}, None)]
        self._raise()
        if spec.sample is not None:
            names = [axis.name for axis in spec.over]
            rows = self._drawn([(axis.name, values) for axis, values in axes])
        else:
            names = [*(table.names if table else ()), *(axis.name for axis in spec.over)]
            self._count(table, base, axes)
            rows = self._product(base, axes)
        constant = self._constant(names, rows)
        self._check_secrets(constant, rows)
        self._raise()
        return Rows(varied=tuple(names), constant=constant, rows=tuple(rows))

    def _raise(self) -> None:
        if self.problems:
            known = (f"{name} ({kind_of(s) or 'any'})" for name, s in self.plan.inputs.items())
            raise refusal(self.problems, hint=f"the inputs of this plan: {', '.join(known)}")

    def _check_whole(self, table: Table | None) -> None:
        spec = self.spec
        if not spec.over and table is None:
            raise InputError(
                "nothing varies in this sweep",
                hint="add --over NAME=1,2,4 or --table FILE; for one run use `fractale run`",
            )
        if spec.sample is not None and table is not None:
            raise InputError(
                "--sample draws from the axes of --over, and a table has no ranges",
                hint="leave out --table or --sample",
            )
        if spec.sample is not None and not spec.over:
            raise InputError("--sample needs --over", hint="such as --over skin=0.1..2.0")
        if spec.sample is not None and spec.sample > MOST_ROWS:
            raise too_many("this sample", spec.sample, MOST_ROWS)

    def _check_names(self, table: Table | None) -> None:
        """Check that the inputs exist, may vary, and are given once."""
        spec = self.spec
        columns = dict.fromkeys(table.names if table else ())
        head = Position(table.file, 1, 1) if table else None
        for name in columns:
            self._check_name(name, head, "column")
        for axis in spec.over:
            self._check_name(axis.name, axis.place, "axis")
            if axis.name in columns:
                message = f"`{axis.name}` is an axis and a column of the table; keep one"
                self.fail("given-twice", message, axis.place)
        for name in spec.inputs:
            place = spec.places.get(name)
            if name not in self.plan.inputs:
                self._check_name(name, place, "input")
            elif name in columns or any(axis.name == name for axis in spec.over):
                self.fail("given-twice", f"`{name}` varies, and also has one value", place)
            elif not self.plan.inputs[name].secret:
                _, wrong = self._converted(self.plan.inputs[name], spec.inputs[name])
                if wrong:
                    self.fail("bad-value", wrong, place)

    def _check_name(self, name: str, place: Position | None, what: str) -> None:
        found = self.plan.inputs.get(name)
        if found is None:
            near = did_you_mean(name, self.plan.inputs, before="; ")
            message = f"the plan has no input `{clip(name)}`{near}"
            self.fail("unknown-input", message, place, f"{what} {clip(name)}")
        elif found.secret:
            message = f"the input `{name}` is secret, and cannot vary: rows are stored"
            self.fail("secret-input", message, place, f"{what} {name}")

    # -- axes

    def _values(self, axis: Axis) -> list[Any] | _Span | None:
        """The values of an axis, of its input's type; None if the input is not known."""
        spec = self.plan.inputs.get(axis.name)
        if spec is None or spec.secret:
            return None
        try:
            given = _read_axis(axis.given, spec)
        except ValueError as error:
            self.fail("bad-axis", str(error), axis.place, f"axis {axis.name}")
            return None
        if isinstance(given, _Span):
            return self._of_span(axis, spec, given)
        if not given:
            self.fail("empty-axis", "it has no values", axis.place, f"axis {axis.name}")
            return None
        return self._typed(axis, spec, given)

    def _of_span(self, axis: Axis, spec: InputSpec, span: _Span) -> list[Any] | _Span | None:
        size = span.size
        for end in (span.low, span.high):
            if wrong := convert(spec, end)[1]:
                self.fail("bad-axis", wrong, axis.place, f"axis {axis.name}")
                return None
        if spec.type == "integer" and not isinstance(span.step or span.factor or 1, int):
            message = "a range of whole numbers needs a whole number as its step"
            self.fail("bad-axis", message, axis.place, f"axis {axis.name}")
            return None
        if self.spec.sample is not None and span.factor is None:
            if spec.type == "number" and span.step == 1 and isinstance(axis.given, str):
                return replace(span, step=None) if ":" not in axis.given else span
            return span
        if size is None:
            message = f"a range of numbers without a step; write `{span.low}..{span.high}:STEP`, "
            self.fail("bad-axis", message + f"or {_DRAW}", axis.place, f"axis {axis.name}")
            return None
        if size > MOST_ROWS:
            raise too_many(f"the axis `{axis.name}`", size, MOST_ROWS)
        return self._typed(axis, spec, span.numbers())

    def _typed(self, axis: Axis, spec: InputSpec, given: Sequence[Any]) -> list[Any] | None:
        values: list[Any] = []
        seen: dict[str, int] = {}
        before = len(self.problems)
        for number, each in enumerate(given, 1):
            value, wrong = self._converted(spec, each)
            if wrong:
                self.fail("bad-value", wrong, axis.place, f"axis {axis.name}")
                continue
            form = _form(value)
            if form in seen:
                message = f"value {number} is the same as value {seen[form]}: {clip(form)}"
                self.fail("duplicate-value", message, axis.place, f"axis {axis.name}")
            seen.setdefault(form, number)
            values.append(value)
        return values if len(self.problems) == before else None

    # -- tables

    def _rows_of_table(self, table: Table) -> list[_Placed]:
        rows = [(self._row(table, row), row.place) for row in table.rows]
        seen: dict[str, int] = {}
        if not self.problems:
            for values, place in rows:
                form = to_json({name: _form(value) for name, value in values.items()})
                if form in seen:
                    message = f"this row is the same as that of line {seen[form]}; keep one"
                    self.fail("duplicate-row", message, place)
                seen.setdefault(form, place.line)
        return [*rows]

    def _row(self, table: Table, row: TableRow) -> dict[str, Any]:
        """A row of the table with typed values, and for cells that are left out the default."""
        found: dict[str, Any] = {}
        for name in table.names:
            spec = self.plan.inputs.get(name)
            if spec is None or spec.secret:
                continue
            if name in row.values:
                found[name], wrong = self._converted(spec, row.values[name])
                if wrong:
                    self.fail("bad-value", wrong, row.place, name)
            elif spec.required:
                self.fail("missing-value", f"the input `{name}` is required", row.place, name)
            elif spec.default is not None:  # null is a default, and not a value that fits a type
                found[name] = spec.default
        return found

    # -- rows

    def _count(
        self,
        table: Table | None,
        base: Sequence[Any],
        axes: Sequence[tuple[Axis, list[Any] | _Span]],
    ) -> None:
        """Refuse a product that is too large, before it is built."""
        total = len(base) * math.prod(len(cast("list[Any]", values)) for _, values in axes)
        if total > MOST_ROWS:
            what = "the rows of the table with these axes" if table else "these axes"
            raise too_many(what, total, MOST_ROWS)

    def _product(
        self,
        base: Sequence[_Placed],
        axes: Sequence[tuple[Axis, list[Any] | _Span]],
    ) -> list[dict[str, Any]]:
        names = [axis.name for axis, _ in axes]
        listed = [cast("list[Any]", values) for _, values in axes]
        return [
            {**values, **dict(zip(names, point, strict=True))}
            for values, _ in base
            for point in itertools.product(*listed)
        ]

    def _drawn(self, axes: Sequence[tuple[str, list[Any] | _Span]]) -> list[dict[str, Any]]:
        """Rows drawn from the axes by a search algorithm, each different."""
        from fractale.agents.search import draw
        from fractale.agents.space import read_space

        sample = cast("int", self.spec.sample)
        space = {name: _space_of(values) for name, values in axes}
        try:
            parameters: Mapping[str, Parameter] = read_space(space)
            sizes = [parameter.size for parameter in parameters.values()]
            most = math.prod(size or 0 for size in sizes)
            if 0 < most < sample:
                raise InputError(
                    f"--sample {sample}: these axes have only {count(most, 'different row')}",
                    hint=f"use --sample {most} or fewer, or leave it out for all rows",
                )
            rows = draw(space, sample, self.spec.algorithm, self.spec.seed)
        except ToolError as error:
            raise InputError(f"--sample: {error.message}", hint=error.hint) from error
        if len(rows) < sample:
            raise InputError(
                f"--sample {sample}: only {count(len(rows), 'different row')} could be drawn",
                hint="use a smaller sample, or wider ranges",
            )
        return [self._checked(row) for row in rows]

    def _checked(self, row: dict[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, value in row.items():
            found[name], wrong = self._converted(self.plan.inputs[name], value)
            if wrong:
                place = next((a.place for a in self.spec.over if a.name == name), None)
                self.fail("bad-value", wrong, place, f"axis {name}")
        return found

    def _constant(self, names: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """All inputs that do not vary."""
        hidden = [name for name, spec in self.plan.inputs.items() if spec.secret]
        given = {**self.spec.inputs, **(rows[0] if rows else {})}
        bound = bind_inputs(self.plan, given, dict.fromkeys(hidden, "?"))
        return {
            name: value
            for name, value in bound.items()
            if name not in names and (value is not None or name in given)
        }

    def _check_secrets(
        self, constant: Mapping[str, Any], rows: Iterable[Mapping[str, Any]]
    ) -> None:
        """Refuse values that are secrets: the rows of a sweep are stored, and shown to people."""
        if not self.masker:
            return
        texts: dict[str, str] = {}
        for name, value in itertools.chain(
            constant.items(), (pair for row in rows for pair in row.items())
        ):
            for text in _texts_in(value):
                texts.setdefault(text, name)
        found = {name for text, name in texts.items() if self.masker.text(text) != text}
        for name in sorted(found):
            place = next((a.place for a in self.spec.over if a.name == name), None)
            message = (
                f"a value of `{name}` is a secret of the settings or the environment; "
                "declare the input `secret: true`, and set it in the environment"
            )
            self.fail("secret-value", message, place or self.spec.places.get(name))


def rows_of(spec: SweepSpec, plan: Plan, masker: Masker | None = None) -> Rows:
    """The table of a sweep's inputs. Nothing is written.

    Args:
        plan: Already loaded; its inputs type the values.
        masker: Knows the secrets that no row may have.

    Raises:
        SweepError: Axes, rows or inputs are wrong; the error has all problems.
        InputError: Nothing varies, there are too many rows, or the table cannot be read.
        DependencyMissing: A package for the table or the sample is not installed.
    """
    return _Builder(spec, plan, masker or Masker()).build()


def _form(value: Any) -> str:
    """A value as a text that is the same for equal values: 1 is 1.0, and not true."""
    is_whole = isinstance(value, float) and value.is_integer()
    return to_json(int(value) if is_whole else value, compact=True)


def _texts_in(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, inner in cast("Mapping[Any, Any]", value).items():
            yield from _texts_in(key)
            yield from _texts_in(inner)
    elif isinstance(value, (list, tuple)):
        for inner in cast("Sequence[Any]", value):
            yield from _texts_in(inner)
    elif value is not None and not isinstance(value, bool):
        yield str(value)


def _space_of(values: list[Any] | _Span) -> dict[str, Any]:
    """An axis as a parameter of `fractale.agents.space`."""
    if isinstance(values, list):
        return {"choices": values}
    whole_numbers = all(isinstance(each, int) for each in (values.low, values.high))
    whole_numbers = whole_numbers and isinstance(values.step, (int, type(None)))
    is_int = whole_numbers and (values.step is not None or values.log)
    space: dict[str, Any] = {
        "type": "int" if is_int else "float",
        "low": values.low,
        "high": values.high,
        "log": values.log,
    }
    if values.step is not None and not values.log:
        space["step"] = values.step
    return space


# -- the values of an axis ------------------------------------------------------------------------


def _read_axis(given: Any, spec: InputSpec) -> list[Any] | _Span:
    """The values of an axis as they are written, or its range.

    Raises:
        ValueError: They are not written right. The text is the message.
    """
    if isinstance(given, list):
        return cast("list[Any]", given)
    if isinstance(given, Mapping):
        return _span_of(cast("Mapping[str, Any]", given), spec)
    text = str(given)
    kind = kind_of(spec)
    if text.lstrip().startswith("["):
        return _json_list(text)
    if (span := _span_in(text)) is not None:
        if kind not in (None, "integer", "number"):
            raise ValueError(
                f"`{clip(text)}` is a range, and the input is of type {kind}; "
                f"for this text itself write '[{json.dumps(text.strip())}]'"
            )
        return span
    if kind in ("array", "object"):
        raise ValueError(f"for an input of type {kind}, write the values as a JSON list: '[…]'")
    pieces = [piece.strip() for piece in text.split(",")]
    if not text.strip():
        return []
    if not all(pieces):
        raise ValueError(
            "there is an empty value between two commas; an empty text is written '[\"\"]'"
        )
    return [*pieces]


def _json_list(text: str) -> list[Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"this begins with `[` but is not a JSON list: {error}") from None
    return cast("list[Any]", found)


def _span_in(text: str) -> _Span | None:
    """The range that a text is; None if it is not one.

    Raises:
        ValueError: It is a range with a fault.
    """
    low, dots, rest = text.partition("..")
    high, colon, step = rest.partition(":")
    ends = [low.strip(), high.strip()]
    if not dots or not all(_LOW.fullmatch(end) for end in ends):
        return None
    step = step.strip()
    factor = step.startswith("*")
    word = step.removeprefix("*").strip()
    if colon and not _LOW.fullmatch(word):
        raise ValueError(f"`{clip(text)}`: after `:` comes a step such as 2, or a factor: *2")
    number = _number(word) if colon else None
    return _checked_span(
        _number(ends[0]), _number(ends[1]), *((None, number) if factor else (number, None))
    )


def _number(text: str) -> int | float:
    return int(text) if re.fullmatch(r"[-+]?[0-9]+", text) else float(text)


def _span_of(given: Mapping[str, Any], spec: InputSpec) -> _Span:
    unknown = [key for key in given if key not in SPACE_KEYS]
    if unknown:
        near = did_you_mean(unknown[0], SPACE_KEYS, before="; ")
        raise ValueError(f"a range has no key `{clip(str(unknown[0]))}`{near}")
    for key in ("low", "high", "step", "factor"):
        value = given.get(key)
        needed = key in ("low", "high")
        if (value is None and not needed) or _is_number(value):
            continue
        raise ValueError(f"a range needs `{key}`, a finite number")
    log = given.get("log", False)
    if not isinstance(log, bool):
        raise ValueError("`log` of a range is true or false")  # noqa: TRY004 - read as a problem
    step = given.get("step")
    if log and (step is not None or given.get("factor") is not None):
        raise ValueError("`log` and a step exclude each other")
    if kind_of(spec) not in (None, "integer", "number"):
        raise ValueError(f"a range is for numbers, and the input is of type {kind_of(spec)}")
    return _checked_span(given["low"], given["high"], step, given.get("factor"), log=log)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _checked_span(
    low: int | float,
    high: int | float,
    step: int | float | None,
    factor: int | float | None,
    *,
    log: bool = False,
) -> _Span:
    if low > high:
        raise ValueError(f"the range begins with {low}, which is above its end {high}")
    if step is not None and step <= 0:
        raise ValueError(f"the step of a range must be above 0, not {step}")
    if factor is not None and (factor <= 1 or low <= 0):
        raise ValueError("a range with a factor needs a factor above 1, and a start above 0")
    if log and low <= 0:
        raise ValueError("with `log`, a range must begin above 0")
    if step is None and factor is None and not log:
        step = 1 if isinstance(low, int) and isinstance(high, int) else None
    return _Span(low, high, step, factor, log)
