"""What a function's annotations name, and whether FastMCP must call it: without importing that."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType, SimpleNamespace
from typing import Any, Final, get_args, get_type_hints

_THEIRS: Final = "fastmcp"
_UNKNOWN: Final = (NameError, TypeError, AttributeError, SyntaxError, ValueError)
"""What an annotation raises that can't be evaluated, such as one imported for type checkers."""
_INJECTS: Final = (_THEIRS, "uncalled_for", "docket")
"""Packages whose objects, as a parameter's default, are replaced by FastMCP when it calls."""


def hints_of(function: Callable[..., Any]) -> dict[str, Any]:
    """The annotations of a function by name; one that names nothing is left as it is written."""
    try:
        return get_type_hints(function, include_extras=True)
    except _UNKNOWN:
        written: dict[str, Any] = getattr(function, "__annotations__", None) or {}
        return {name: _hint_of(function, hint) for name, hint in written.items()}


def _hint_of(function: Callable[..., Any], hint: Any) -> Any:
    names: dict[str, Any] = getattr(inspect.unwrap(function), "__globals__", {})
    alone: Any = SimpleNamespace(__annotations__={"hint": hint})
    try:
        return get_type_hints(alone, names, include_extras=True)["hint"]
    except _UNKNOWN:
        return hint


def is_fastmcps(found: Any) -> bool:
    """Whether an object is an instance of a class of FastMCP, or of a class made from one."""
    return _THEIRS in sys.modules and any(
        _package(each.__module__) == _THEIRS for each in type(found).__mro__
    )


def is_for_fastmcp(function: Callable[..., Any]) -> bool:
    """Whether only FastMCP can describe and call a function.

    It was decorated by FastMCP, takes its context or another of its dependencies, or is annotated
    to answer with its types.
    """
    if _THEIRS not in sys.modules:
        return False
    if hasattr(inspect.unwrap(function), "__fastmcp__"):
        return True
    if any(_names_theirs(hint) for hint in hints_of(function).values()):
        return True
    defaults = [each.default for each in inspect.signature(function).parameters.values()]
    return any(_package(type(each).__module__) in _INJECTS for each in defaults)


def may_use_fastmcp(found: Any) -> bool:
    """Whether a function's module has something of FastMCP: it may ask for the running server."""
    if _THEIRS not in sys.modules:
        return False
    module = sys.modules.get(getattr(found, "__module__", None) or type(found).__module__)
    return any(_home(each) == _THEIRS for each in [*vars(module).values()] if module)


def _names_theirs(hint: Any) -> bool:
    if isinstance(hint, type) and any(_package(c.__module__) == _THEIRS for c in hint.__mro__):
        return True
    if _package(type(hint).__module__) in _INJECTS:  # in ``Annotated``
        return True
    return any(_names_theirs(each) for each in get_args(hint))


def _home(value: Any) -> str:
    """The package that a value comes from."""
    if isinstance(value, ModuleType):
        return _package(value.__name__)
    if isinstance(value, (type, FunctionType, BuiltinFunctionType, MethodType)):
        return _package(value.__module__)
    return _package(type(value).__module__)


def _package(module: Any) -> str:
    return str(module).partition(".")[0]
