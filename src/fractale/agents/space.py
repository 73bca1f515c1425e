"""Parameter spaces as JSON: parses and checks them, and checks the points of a space."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final, Literal, TypeAlias, TypeGuard, cast

from fractale.errors import ToolError

Kind: TypeAlias = Literal["int", "float", "categorical"]

KEYS: Final[Mapping[str, frozenset[str]]] = {
    "int": frozenset({"type", "low", "high", "log", "step", "description"}),
    "float": frozenset({"type", "low", "high", "log", "step", "description"}),
    "categorical": frozenset({"type", "choices", "description"}),
}

MAX_INTEGER = 2**53
"""Larger integers lose digits in JSON and Optuna."""

TOLERANCE = 1e-8
"""The largest deviation of a value from a step, as a share of the step; the same as Optuna's."""

MAX_SHOWN_CHOICES = 20

MAX_VALUES = 10_000
"""The most values of one parameter on a grid."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """One parameter of a job.

    Args:
        low: The smallest number.
        high: The largest number, which is on a step.
        log: Whether to draw numbers evenly by their logarithms.
        step: Distance of two numbers; None for a float without steps, and with `log`.
        choices: The values of a categorical parameter.
        description: For models.
    """

    type: Kind
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    step: float | None = None
    choices: tuple[Any, ...] = ()
    description: str = ""

    @property
    def size(self) -> int | None:
        """The number of its values; None if it is infinite."""
        if self.type == "categorical":
            return len(self.choices)
        step = self.step or (1 if self.type == "int" else None)
        if step is None:
            return 1 if self.low == self.high else None
        return round((self.high - self.low) / step) + 1

    def grid(self) -> list[Any]:
        """Its values on a grid: all values, or powers of two for an integer with `log`.

        Raises:
            ValueError: The values are infinitely many, or too many.
        """
        if self.type == "categorical":
            return list(self.choices)
        if self.type == "int" and self.log:
            return _doublings(int(self.low), int(self.high))
        if self.size is None:
            raise ValueError("a grid has no end of values for it")
        if self.size > MAX_VALUES:
            raise ValueError(f"a grid would have {self.size} values for it")
        return [self.at(index) for index in range(self.size)]

    def at(self, index: int) -> int | float:
        """The value `index` steps above `low`, without binary rounding errors."""
        value = Decimal(str(self.low)) + index * Decimal(str(self.step or 0))
        return int(value) if self.type == "int" else float(value)

    def schema(self) -> dict[str, Any]:
        """JSON Schema of a value."""
        about = {"description": self.description} if self.description else {}
        if self.type == "categorical":
            return {"enum": list(self.choices), **about}
        kind, number = ("integer", int) if self.type == "int" else ("number", float)
        return {"type": kind, "minimum": number(self.low), "maximum": number(self.high), **about}


def _doublings(low: int, high: int) -> list[int]:
    """1, 2, 4, … as users choose nodes and ranks. The last is always `high`."""
    values = [low]
    while values[-1] * 2 < high:
        values.append(values[-1] * 2)
    return values if low == high else [*values, high]


# -- reading a space ----------------------------------------------------------------------------


def read_space(space: Any) -> dict[str, Parameter]:
    """The parameters of a space, by name.

    Args:
        space: name → ``{type: int | float, low, high, log, step}`` or
            ``{type: categorical, choices: [...]}``; with ``choices`` the type may be left out.

    Raises:
        ToolError: The space is not valid. The message lists all faults.
    """
    if not isinstance(space, Mapping) or not space:
        raise ToolError("`space` must be a mapping of at least one parameter", hint=EXAMPLE)
    given = cast("Mapping[str, Any]", space)
    faults = [f"{name}: {fault}" for name, each in given.items() for fault in _faults_in(each)]
    if faults:
        raise ToolError(f"`space` can't be searched: {'; '.join(faults)}", hint=EXAMPLE)
    return {str(name): _parameter(each) for name, each in given.items()}


EXAMPLE = (
    "for example: {nodes: {type: int, low: 1, high: 8}, "
    "rate: {type: float, low: 0.001, high: 1, log: true}, solver: {choices: [cg, gmres]}}"
)


def _faults_in(given: Any) -> list[str]:
    if not isinstance(given, Mapping):
        return [f"it must be a mapping with a `type`, not {given!r}"]
    each = cast("Mapping[str, Any]", given)
    kind = _kind_of(each)
    if kind not in KEYS:
        return [f"`type` must be int, float or categorical, not {kind!r}"]
    unknown = [f"`{key}` is not one of its keys" for key in each if key not in KEYS[kind]]
    return unknown + (_faulty_choices(each) if kind == "categorical" else _faulty_range(each))


def _kind_of(given: Mapping[str, Any]) -> Any:
    return given.get("type", "categorical" if "choices" in given else None)


def _faulty_choices(given: Mapping[str, Any]) -> list[str]:
    choices: Any = given.get("choices")
    if not isinstance(choices, list) or not choices:
        return ["`choices` must be a list of at least one value"]
    several = cast("list[Any]", choices)
    odd = [each for each in several if not isinstance(each, (str, int, float, type(None)))]
    if odd:
        return [f"a choice must be text, a number, true, false or null, not {odd[0]!r}"]
    # To Python, and so to Optuna, 1, 1.0 and true are equal.
    return [] if len(set(several)) == len(several) else ["two of the `choices` are the same"]


def _faulty_range(given: Mapping[str, Any]) -> list[str]:
    is_kind = _is_integer if given["type"] == "int" else _is_finite
    word = "an integer" if given["type"] == "int" else "a number"
    named = ["low", "high", *(["step"] if given.get("step") is not None else [])]
    faults = [f"`{key}` is {word}" for key in named if not is_kind(given.get(key))]
    if not isinstance(given.get("log", False), bool):
        faults.append("`log` must be true or false")
    return faults or _contradictions(given)


def _contradictions(given: Mapping[str, Any]) -> list[str]:
    low, high, step = given["low"], given["high"], given.get("step")
    faults: list[str] = []
    if low > high:
        faults.append(f"`low` ({low}) is above `high` ({high})")
    if step is not None and step <= 0:
        faults.append("`step` must be above 0")
    if given.get("log"):
        if low < 1 and given["type"] == "int":
            faults.append("with `log`, `low` must be at least 1")
        elif low <= 0:
            faults.append("with `log`, `low` must be above 0")
        if step is not None and not (step == 1 and given["type"] == "int"):
            faults.append("`log` and `step` don't go together")
    return faults


def _parameter(given: Mapping[str, Any]) -> Parameter:
    about = str(given.get("description") or "")
    if _kind_of(given) == "categorical":
        return Parameter(type="categorical", choices=tuple(given["choices"]), description=about)
    kind, log = given["type"], bool(given.get("log"))
    step = given.get("step")
    if kind == "int":
        step = None if log else step or 1
    low, high = given["low"], given["high"]
    if step is not None:
        # Optuna also moves `high` down to the last step, but warns each time.
        steps = math.floor((high - low) / step + TOLERANCE)
        high = Parameter(type=kind, low=low, step=step).at(steps)
    return Parameter(type=kind, low=low, high=high, log=log, step=step, description=about)


def _is_finite(value: Any) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_integer(value: Any) -> TypeGuard[int]:
    return _is_finite(value) and value == int(value) and abs(value) <= MAX_INTEGER


# -- points of a space --------------------------------------------------------------------------


def faults_of(parameters: Mapping[str, Parameter], params: Any) -> list[str]:
    """Why a point is not in the space. Empty if it is."""
    if not isinstance(params, Mapping):
        return ["`params` must be a mapping of the parameters"]
    point = cast("Mapping[str, Any]", params)
    missing = [f"{name}: missing" for name in parameters if name not in point]
    unknown = [f"{name}: not a parameter" for name in point if name not in parameters]
    outside = [
        f"{name}: {fault}"
        for name, parameter in parameters.items()
        if name in point and (fault := _fault_of(parameter, point[name]))
    ]
    return missing + unknown + outside


def _fault_of(parameter: Parameter, value: Any) -> str:
    if parameter.type == "categorical":
        if any(_same(value, choice) for choice in parameter.choices):
            return ""
        return f"{value!r} is not one of {_listed(parameter.choices)}"
    if not (_is_integer(value) if parameter.type == "int" else _is_finite(value)):
        return f"{value!r} is not {'an integer' if parameter.type == 'int' else 'a number'}"
    if not parameter.low <= value <= parameter.high:
        return f"{value!r} is outside of {parameter.low} to {parameter.high}"
    steps = 0.0 if parameter.step is None else (value - parameter.low) / parameter.step
    if abs(steps - round(steps)) > TOLERANCE * max(1.0, abs(steps)):
        return f"{value!r} is not on a step of {parameter.step} from {parameter.low}"
    return ""


def typed(parameters: Mapping[str, Parameter], params: Mapping[str, Any]) -> dict[str, Any]:
    """A point of the space with values of the space's own types, in its order.

    Optuna's numbers may be numpy's, and a model may write 4.0 for 4.
    """
    return {name: _typed(parameter, params[name]) for name, parameter in parameters.items()}


def _typed(parameter: Parameter, value: Any) -> Any:
    if parameter.type == "categorical":
        return next(choice for choice in parameter.choices if _same(value, choice))
    if parameter.type == "int":
        return int(value)
    if parameter.step is None:
        return float(value)
    return parameter.at(round((value - parameter.low) / parameter.step))


def _same(value: Any, choice: Any) -> bool:
    """Whether two values are equal, and both or neither are booleans: 1 is not true."""
    return value == choice and isinstance(value, bool) == isinstance(choice, bool)


def _listed(choices: Sequence[Any]) -> str:
    shown = ", ".join(repr(choice) for choice in choices[:MAX_SHOWN_CHOICES])
    return shown if len(choices) <= MAX_SHOWN_CHOICES else f"{shown}, …"
