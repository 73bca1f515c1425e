"""The `defaults` of a plan: keys of steps by kind, which a step has unless it sets them itself.

They are put into the nodes of the steps before these are read. So everything else sees whole steps,
and a problem in a default has its position in the block `defaults`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final, cast

from fractale.plan.fields import Fields, Reader, join
from fractale.plan.forms import read_part
from fractale.plan.job import JOB_HINTS, JOB_KEYS, WIDENING
from fractale.plan.kinds import KINDS, kinds_named
from fractale.plan.model import NOT_DEFAULT, STEP_HINTS, STEP_KEYS, default_keys
from fractale.plan.node import Node

ONE_FIELD: Final = {"tools": "allow_tools", "allow_tools": "tools"}
"""Keys that set the same field: a step that has the one does not get the other."""

MERGED: Final = "env"
"""The key whose default and own value are merged by name."""

_OF_ONE_STEP: Final = "it says what one step does, so write it there"
_HINTS: Final = {
    **STEP_HINTS,
    **dict.fromkeys(NOT_DEFAULT, _OF_ONE_STEP),
    "job": "write the keys of the job themselves",
}


@dataclass(frozen=True, slots=True)
class Default:
    """The default of one key: the key and its value in the file."""

    key: Node
    value: Node


@dataclass(frozen=True, slots=True)
class Defaults:
    """The defaults of a plan: kind of step → key → its default."""

    by_kind: Mapping[str, Mapping[str, Default]] = field(
        default_factory=dict[str, Mapping[str, Default]]
    )

    def fill(self, node: Node) -> Node:
        """The mapping of a step with the defaults of its kind. Other nodes stay as they are."""
        if not self.by_kind or not isinstance(node.value, dict):
            return node
        kind = _kind_of(node.value)
        found = self.by_kind.get(kind)
        if not found:
            return node
        lacking = KINDS[kind].lacking(Fields(Reader(), node, ""))
        fitting = {name: each for name, each in found.items() if name not in lacking}
        job = node.value.get("job")
        if job is None or not isinstance(job.value, dict):
            return _filled(node, fitting, kind)
        of_job = {name: each for name, each in fitting.items() if name in JOB_KEYS}
        own = {name: each for name, each in fitting.items() if name not in JOB_KEYS}
        inner = replace(node, value={**node.value, "job": _filled(job, of_job, kind)})
        return _filled(inner, own, kind)


def _kind_of(step: Mapping[str, Node]) -> str:
    """The kind of a step, before it is read."""
    said = str(step["type"].value) if "type" in step else None
    given = kinds_named(step, said)
    if not given:
        return said if said and said in KINDS else "agent"
    return said if said in given else given[0]


def _filled(node: Node, defaults: Mapping[str, Default], kind: str) -> Node:
    own = cast("dict[str, Node]", node.value)
    added = {name: each for name, each in defaults.items() if _applies(name, own, defaults, kind)}
    values = {**own, **{name: each.value for name, each in added.items()}}
    env = defaults.get(MERGED)
    if MERGED in own and env is not None:
        values[MERGED] = _merged(env.value, own[MERGED])
    return replace(
        node, value=values, keys={**node.keys, **{name: each.key for name, each in added.items()}}
    )


def _applies(
    name: str, own: Mapping[str, Node], defaults: Mapping[str, Default], kind: str
) -> bool:
    """Whether a step gets the default of a key."""
    if name in own or ONE_FIELD.get(name) in own:
        return False
    if name in WIDENING[1:] and not _is_true(own.get("confine"), defaults.get("confine")):
        return False
    needs = STEP_KEYS[name].needs
    return not needs or any(need in own or need == kind for need in needs)


def _is_true(own: Node | None, default: Default | None) -> bool:
    if own is not None:
        return own.value is True
    return default is not None and default.value.value is True


def _merged(default: Node, own: Node) -> Node:
    if not isinstance(default.value, dict) or not isinstance(own.value, dict):
        return own
    return replace(own, value={**default.value, **own.value}, keys={**default.keys, **own.keys})


def read_defaults(plan: Fields) -> Defaults:
    """The `defaults` of a plan. A default with a fault is left out, and a problem is kept."""
    node = plan.get("defaults")
    if node is None:
        return Defaults()
    reader, path = plan.reader, join(plan.path, "defaults")
    kinds = reader.fields(node, path, KINDS, "`defaults`", {})
    found: dict[str, dict[str, Default]] = {}
    for kind in kinds or ():
        if kind not in KINDS or kinds is None or kinds.get(kind) is None:
            continue
        keys = default_keys(kind)
        noun = f"the default of {kind} steps"
        known = {**JOB_HINTS, **_HINTS} if kind == "job" else _HINTS
        hints = {name: hint for name, hint in known.items() if name not in keys}
        of_kind = reader.fields(kinds.value(kind), join(path, kind), keys, noun, hints)
        found[kind] = {} if of_kind is None else _read(of_kind, kind)
    return Defaults(found)


def _read(fields: Fields, kind: str) -> dict[str, Default]:
    found: dict[str, Default] = {}
    problems = fields.reader.problems
    for name, key in default_keys(kind).items():
        if fields.get(name) is None and not (name in fields and key.never_empty):
            continue
        before = len(problems.problems)
        read_part({name: key}, fields)
        if len(problems.problems) == before:
            found[name] = Default(fields.node.keys[name], fields.value(name))
    return found
