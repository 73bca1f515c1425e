"""The key `cache` of a step: whether it takes the result of an equal step of an earlier run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from fractale.plan.fields import join
from fractale.plan.forms import FILES, Form
from fractale.plan.values import Value

if TYPE_CHECKING:
    from fractale.plan.fields import Fields


@dataclass(frozen=True, slots=True)
class StepCache:
    """The value of the key.

    Args:
        on: False: the step always makes its call, also if the run takes over what it can.
        files: Paths and globs of files that the result depends on, beside those that the arguments
            name; relative to the directory in which the run was started.
    """

    on: bool = True
    files: tuple[Value, ...] = ()


def _read(mapping: Fields, key: str) -> StepCache | None:
    node = mapping.value(key)
    if isinstance(node.value, bool):
        return StepCache(on=node.value)
    if not isinstance(node.value, dict):
        mapping.wrong(key, "`true`, `false`, or `{files: [PATH, …]}`")
        return None
    inner = mapping.reader.fields(node, join(mapping.path, key), ("files",), f"`{key}`", {})
    if inner is None or FILES.read is None:
        return None
    files = FILES.read(inner, "files") if inner.get("files") is not None else ()
    if not files:
        mapping.fail(key, "missing-key", f"`{key}` needs `files`: the files that matter, or `true`")
        return None
    return StepCache(files=files)


def _dump(value: StepCache) -> Any:
    return {"files": FILES.dump(value.files)} if value.files else value.on


CACHE: Final = Form(
    _read,
    {
        "anyOf": [
            {"type": "boolean"},
            {
                "type": "object",
                "properties": {"files": FILES.schema},
                "required": ["files"],
                "additionalProperties": False,
            },
        ]
    },
    _dump,
)
"""Whether the step is cached, or the files that its result depends on."""
