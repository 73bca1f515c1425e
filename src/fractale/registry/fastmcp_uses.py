"""Which objects of a registry need FastMCP. Nothing here imports FastMCP.

FastMCP takes a quarter of a second to import. An object can need it only if its own module has
imported it already.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any, Final, get_args

from fractale.registry.signature import hints_of

_PACKAGE: Final = "fastmcp"
_INJECTORS: Final = (_PACKAGE, "uncalled_for", "docket")
"""Packages whose objects, as a parameter's default, FastMCP replaces when it calls a function."""


@dataclass(frozen=True, slots=True)
class FastMCPMade:
    """A tool, prompt or resource that FastMCP made; `fastmcp_mount` makes a component of it.

    Args:
        made: A ``fastmcp`` Tool, Prompt, Resource or ResourceTemplate.
    """

    name: str
    made: Any


def is_fastmcps(found: Any) -> bool:
    """Whether an object is an instance of a class of FastMCP, or of a subclass of one."""
    return _PACKAGE in sys.modules and any(
        _package(each.__module__) == _PACKAGE for each in type(found).__mro__
    )


def is_for_fastmcp(function: Callable[..., Any]) -> bool:
    """Whether only FastMCP can describe and call a function.

    FastMCP decorated the function, or the function expects FastMCP's context or dependencies, or
    its annotations name FastMCP's types.
    """
    if _PACKAGE not in sys.modules:
        return False
    if hasattr(inspect.unwrap(function), "__fastmcp__"):
        return True
    if any(_names_theirs(hint) for hint in hints_of(function).values()):
        return True
    defaults = [each.default for each in inspect.signature(function).parameters.values()]
    return any(_package(type(each).__module__) in _INJECTORS for each in defaults)


def may_use_fastmcp(found: Any) -> bool:
    """Whether the module of an object names something of FastMCP.

    Such a function may ask FastMCP for the running server.
    """
    if _PACKAGE not in sys.modules:
        return False
    module = sys.modules.get(getattr(found, "__module__", None) or type(found).__module__)
    return any(_home(each) == _PACKAGE for each in [*vars(module).values()] if module)


def _names_theirs(hint: Any) -> bool:
    if isinstance(hint, type) and any(_package(c.__module__) == _PACKAGE for c in hint.__mro__):
        return True
    if _package(type(hint).__module__) in _INJECTORS:  # in ``Annotated``
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
