"""Docstrings → what a function does, and what each of its arguments is."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

_STYLES: Final = ("google", "numpy", "sphinx")
_DESCRIBES_ARGUMENTS: Final = re.compile(
    r"^\s*(?:(?:keyword |other )?(?:args|arguments|params|parameters)\b|:(?:param|arg|key))",
    re.IGNORECASE | re.MULTILINE,
)


@dataclass(frozen=True, slots=True)
class Docstring:
    """What a docstring says.

    Args:
        text: What the function does: all of it where no arguments are described.
        arguments: The descriptions of arguments, by name.
    """

    text: str | None = None
    arguments: Mapping[str, str] = field(default_factory=dict[str, str])


def read_docstring(function: Callable[..., Any]) -> Docstring:
    """A function's docstring, in Google's, NumPy's or Sphinx's style."""
    text = inspect.getdoc(function)
    if not text:
        return Docstring()
    if not _DESCRIBES_ARGUMENTS.search(text):
        return Docstring(text)  # most: and the parser below takes a while to import
    return next(filter(None, (_parsed(text, style) for style in _STYLES)), Docstring(text))


def _parsed(text: str, style: Any) -> Docstring | None:
    """The docstring if it describes arguments in this style."""
    import griffe

    first: str | None = None
    arguments: dict[str, str] = {}
    for section in griffe.Docstring(text, lineno=1, parser=style).parse(warnings=False):
        if section.kind is griffe.DocstringSectionKind.text and first is None:
            first = section.value
        elif section.kind is griffe.DocstringSectionKind.parameters:
            arguments.update({each.name: each.description for each in section.value})
    return Docstring(first, arguments) if arguments else None
