"""Sweep files: a sweep written down, so that it can be kept and reviewed.

The keys are one table, the fields of `_SweepFile`, as those of plans are. A sweep file names a plan
and an executor of the settings. It never says how to start or reach anything.
"""

# No `from __future__ import annotations`: `keys_of` reads the annotations.

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final, get_args

from fractale import shipped
from fractale.errors import PlanError
from fractale.plain import to_json
from fractale.plan.build import OF_SWEEPS
from fractale.plan.fields import Fields, Reader, join
from fractale.plan.forms import (
    AMOUNT,
    FLAG,
    NAME,
    TEXT,
    TITLE,
    Form,
    Key,
    choice,
    keys_of,
    part_schema,
    read_part,
    whole,
)
from fractale.plan.model import Limits
from fractale.plan.node import Node
from fractale.plan.source import read_file
from fractale.sweeps.spec import SPACE_KEYS, Algorithm, Axis, SweepSpec


def _plain_table(mapping: Fields, key: str) -> dict[str, Any] | None:
    node = mapping.value(key)
    if isinstance(node.value, dict):
        return node.plain()
    mapping.wrong(key, "a mapping")
    return None


def _inputs(mapping: Fields, key: str) -> dict[str, Node]:
    return {name: node for name, _, node in mapping.entries(key)}


def _axes(mapping: Fields, key: str) -> tuple[Axis, ...]:
    found: list[Axis] = []
    for name, at, node in mapping.entries(key):
        path = join(join(mapping.path, key), name)
        given = node.plain()
        if isinstance(node.value, dict):
            space = mapping.reader.fields(node, path, SPACE_KEYS, "a range", {})
            if space is not None and not {"low", "high"} <= {*space}:
                message = "a range needs `low` and `high`"
                mapping.reader.fail("missing-key", message, at, path)
        elif not isinstance(given, (str, list)) or not given:
            message = f"an axis is a list of values or a range such as `1..8`, not {node.found()}"
            mapping.reader.fail("wrong-type", message, at, path)
            continue
        found.append(Axis(name, given, at.position))
    return tuple(found)


@dataclass(frozen=True, kw_only=True)
class SweepLimits:
    """The limits of a whole sweep: its budget. See `fractale.sweeps.budget`."""

    tokens: Annotated[
        int | None, Key(whole(), "Input and output tokens of all models in all runs.")
    ] = None
    cost: Annotated[
        float | None, Key(AMOUNT, "US dollars of all runs, for models whose price is known.")
    ] = None
    node_hours: Annotated[float | None, Key(AMOUNT, "Of all batch jobs of all runs.")] = None
    core_hours: Annotated[float | None, Key(AMOUNT, "As `node_hours`, for cores.")] = None
    gpu_hours: Annotated[float | None, Key(AMOUNT, "As `node_hours`, for GPUs.")] = None
    jobs: Annotated[int | None, Key(whole(), "Batch jobs of all runs.")] = None
    jobs_at_once: Annotated[
        int | None, Key(whole(), "Batch jobs in progress, by the limit `jobs` of each run.")
    ] = None


def _limits_form(part: type, noun: str, hints: Mapping[str, str]) -> Form:
    """A mapping of limits that is read as name → amount."""
    keys = keys_of(part)

    def read(mapping: Fields, key: str) -> dict[str, float] | None:
        path = join(mapping.path, key)
        inner = mapping.reader.fields(mapping.value(key), path, keys, noun, hints)
        return None if inner is None else read_part(keys, inner)

    return Form(read, part_schema(keys))


_SWEEP_LIMITS: Final = _limits_form(
    SweepLimits,
    "`limits` of a sweep",
    dict.fromkeys(
        ("steps", "attempts", "time", "depth"), "that limits one run: write it below `run_limits`"
    ),
)
_RUN_LIMITS: Final = _limits_form(Limits, "`run_limits`", {})
_VALUES: Final = Form(_inputs, {"type": "object"})


@dataclass(frozen=True, kw_only=True)
class _SweepFile:
    """The keys of a sweep file: the table of ``docs/sweeps.md`` comes from them."""

    plan: Annotated[
        str, Key(TITLE, "The plan's file, from the sweep file's directory.", required="")
    ]
    description: Annotated[str, Key(TEXT, "The purpose of the sweep.")] = ""
    inputs: Annotated[Mapping[str, Node], Key(_VALUES, "Inputs that are the same in all runs.")] = (
        field(default_factory=dict[str, Node])
    )
    over: Annotated[
        tuple[Axis, ...],
        Key(
            Form(_axes, {"type": "object"}),
            "Input → a list of values, a range such as `1..8`, or `{low, high, step}`.",
            never_empty=True,
        ),
    ] = ()
    table: Annotated[
        str | None,
        Key(TITLE, "A table of inputs, from the sweep file's directory.", never_empty=True),
    ] = None
    sample: Annotated[int | None, Key(whole(), "How many rows to draw from `over`.")] = None
    seed: Annotated[int, Key(whole(0), "Another seed draws other rows.")] = 0
    algorithm: Annotated[
        Algorithm, Key(choice(get_args(Algorithm)), "How rows are drawn: `random` or `grid`.")
    ] = "random"
    limits: Annotated[
        Mapping[str, float], Key(_SWEEP_LIMITS, "Limits of all runs together: a budget.")
    ] = field(default_factory=dict[str, float])
    run_limits: Annotated[
        Mapping[str, float],
        Key(_RUN_LIMITS, "Limits of each run; they replace the plan's of the same name."),
    ] = field(default_factory=dict[str, float])
    on: Annotated[str, Key(NAME, "The executor: `local`, or one of the settings.")] = "local"
    max_parallel: Annotated[int | None, Key(whole(), "How many runs at a time.")] = None
    answers: Annotated[
        Mapping[str, Any],
        Key(Form(_plain_table, {"type": "object"}), "Answers to questions: step → answer."),
    ] = field(default_factory=dict[str, Any])
    reuse: Annotated[
        bool | None,
        Key(
            FLAG,
            "`true`: take over [results of equal steps](cache.md), for all tools that only read; "
            "`false`: make every call.",
        ),
    ] = None
    merit: Annotated[
        str | None, Key(TITLE, "The output by which you compare runs, such as `energy`.")
    ] = None


SWEEP_KEYS: Final = keys_of(_SweepFile)
_HINTS: Final = {
    "steps": "that belongs to a plan; name the plan's file with `plan`",
    "executors": "executors are set up in the settings; name one with `on`",
    "executor": "write `on`",
    "jobs": "write `max_parallel`",
    "parallel": "write `max_parallel`",
    "metric": "write `merit`",
    "servers": "the plan names its servers",
}


def is_sweep_file(root: Node) -> bool:
    """Whether a YAML file is a sweep: it has `plan` or another key of a sweep, and no `steps`."""
    if not isinstance(root.value, dict) or "steps" in root.value:
        return False
    return "plan" in root.value or bool(OF_SWEEPS & {*root.value})


def read_sweep_file(path: Path | str) -> SweepSpec | None:
    """Read a sweep file.

    Args:
        path: Positions name it as given here.

    Returns:
        None if the file is a plan, or cannot be either: then the reader of plans says why.

    Raises:
        PlanError: It is a sweep file with errors; all of them.
    """
    path = shipped.located(path, "plan")
    if not path.is_file():
        return None  # a pipe can be read once only, and is read as a plan
    root = read_file(path)
    if not is_sweep_file(root):
        return None
    reader = Reader()
    fields = reader.fields(root, "", SWEEP_KEYS, "a sweep", _HINTS)
    if fields is None:  # it is a mapping: see `is_sweep_file`
        raise PlanError(reader.problems.errors)
    found = read_part(SWEEP_KEYS, fields)
    _check_parts(fields)
    if problems := reader.problems.errors:
        raise PlanError(problems)
    inputs: dict[str, Node] = found.pop("inputs", {})
    for name in ("plan", "table"):
        if name in found and not (name == "plan" and shipped.is_named(found[name])):
            found[name] = str(path.parent / Path(found[name]).expanduser())
    return SweepSpec(
        **found,
        inputs={name: node.plain() for name, node in inputs.items()},
        places={name: node.position for name, node in inputs.items()},
        file=str(path),
        file_text=to_json(root.plain(), indent=1),
        file_table=found.get("table"),
    )


def _check_parts(fields: Fields) -> None:
    """Check keys that need or exclude each other."""
    if "sample" in fields and "over" not in fields:
        fields.fail("sample", "missing-key", "`sample` draws from the axes of `over`; add `over`")
    if "sample" in fields and "table" in fields:
        fields.fail("sample", "bad-value", "`sample` and `table` exclude each other")
    if "over" not in fields and "table" not in fields:
        message = "a sweep needs `over` or `table`: nothing varies"
        fields.reader.fail("missing-key", message, fields.node, "")
