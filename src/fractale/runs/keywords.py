"""The keywords of fractale's functions: a value that cannot be used is an error that names it.

Each keyword means the same in every function that has it. `check_values` is called with the values
of a call before anything is done with them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

from fractale.errors import UsageError
from fractale.plan.model import Limits, Plan
from fractale.settings import Settings
from fractale.text import did_you_mean, shown_value


def check_keywords(function: str, given: Mapping[str, Any], known: type[Any]) -> None:
    """Check that a function has the keywords, as Python does for a function that names each.

    Raises:
        TypeError: A keyword is unknown.
    """
    names = [*known.__annotations__]
    if wrong := [name for name in given if name not in names]:
        near = did_you_mean(wrong[0], names)
        raise TypeError(
            f"{function}() got an unexpected keyword argument '{wrong[0]}'"
            + (f"; {near}" if near else "")
        )


def check_values(given: Mapping[str, Any], *required: str) -> None:
    """Check that the values of keywords can be used.

    Args:
        required: The keywords that cannot be None either.

    Raises:
        UsageError: One cannot.
    """
    for name, value in given.items():
        form = _FORMS.get(name)
        if form is None or (value is None and not form.never_none and name not in required):
            continue
        if not form.fits(value):
            raise unusable(name, value, form.hint)


def unusable(name: str, value: Any, hint: str) -> UsageError:
    """The error for a value that a keyword cannot have.

    Args:
        hint: The kind of value to give instead.
    """
    return UsageError(f"`{name}` cannot be {shown_value(value)}", hint=hint)


# -- the forms of values --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Form:
    """The values that a keyword can have.

    Args:
        hint: Describes them.
        never_none: Whether None is not one of them.
    """

    fits: Callable[[Any], bool]
    hint: str
    never_none: bool = False


def _is(*types: type[Any]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, types) and not isinstance(value, bool)


def _list_of(fits: Callable[[Any], bool], *alone: type[Any]) -> Callable[[Any], bool]:
    """Whether a value is a list of fitting ones; one of the types `alone` counts as a list."""

    def check(value: Any) -> bool:
        if isinstance(value, alone):
            return True
        is_list = isinstance(value, Sequence) and not isinstance(value, (str, bytes))
        return is_list and all(fits(each) for each in cast("Sequence[Any]", value))

    return check


def _table_of(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: (
        isinstance(value, Mapping)
        and all(
            isinstance(name, str) and fits(each)
            for name, each in cast("Mapping[Any, Any]", value).items()
        )
    )


def _anything(_: Any) -> bool:
    return True


def _is_bool(value: Any) -> bool:
    return isinstance(value, bool)


def _is_seconds(value: Any) -> bool:
    return _is(int, float)(value) and math.isfinite(value) and value >= 0


def _is_count(value: Any) -> bool:
    return _is(int)(value) and value >= 0


def _is_person(value: Any) -> bool:
    return not isinstance(value, type) and callable(getattr(value, "answer", None))


def _are_tools(value: Any) -> bool:
    if _list_of(_anything)(value):
        return True
    is_toolbox = all(hasattr(value, name) for name in ("tools", "call_tool", "servers"))
    return is_toolbox and not isinstance(value, type)


def _is_stopping_point(value: Any) -> bool:
    return value == "*" or _list_of(_is(str))(value)


def _is_store(value: Any) -> bool:
    from langgraph.store.base import BaseStore

    return isinstance(value, BaseStore)


def _is_cache(value: Any) -> bool:
    from langgraph.cache.base import BaseCache

    return isinstance(value, BaseCache)


def _are_callbacks(value: Any) -> bool:
    from langchain_core.callbacks import BaseCallbackHandler, BaseCallbackManager

    return _list_of(_is(BaseCallbackHandler), BaseCallbackManager)(value)


_TEXT: Final = _Form(_is(str), "give a text")
_ID: Final = _Form(_is(str), "give a text, such as the `run` of a `RunResult`")
_FLAG: Final = _Form(_is_bool, "give True or False", never_none=True)
_TABLE: Final = _Form(_table_of(_anything), "give a mapping whose keys are texts")
_STOPS: Final = _Form(_is_stopping_point, 'give "*" or a list of the names of nodes')

_FORMS: Final[Mapping[str, _Form]] = {
    "run_id": _ID,
    "new_id": _ID,
    "at": _TEXT,
    "step": _TEXT,
    "name": _TEXT,
    "description": _TEXT,
    "inputs": _TABLE,
    "replies": _TABLE,
    "answers": _TABLE,
    "secrets": _TABLE,
    "values": _TABLE,
    "metadata": _TABLE,
    "outputs": _Form(_table_of(_is(Mapping)), "give a mapping: step → output → value"),
    "keep": _FLAG,
    "yes": _FLAG,
    "detach": _FLAG,
    "reuse": _Form(_is_bool, "give True, False or None"),
    "today": _FLAG,
    "loose": _FLAG,
    "debug": _Form(_is_bool, "give True or False"),
    "tools": _Form(
        _are_tools,
        "give a list of functions and LangChain tools, or a toolbox",
        never_none=True,
    ),
    "registries": _Form(_list_of(_is(str, Path), str, Path), "give a list of paths"),
    "agents": _Form(
        lambda value: _list_of(_anything, str)(value) or _table_of(_anything)(value),
        "give a list of dotted paths and objects, or name → object",
    ),
    "settings": _Form(_is(Settings), "give `fractale.Settings(…)` or `fractale.load_settings()`"),
    "on_event": _Form(
        lambda value: callable(value) and not isinstance(value, type), "give a function"
    ),
    "store": _Form(_is_store, "give a LangGraph store, such as `InMemoryStore()`"),
    "cache": _Form(_is_cache, "give a LangGraph cache, such as `InMemoryCache()`"),
    "person": _Form(_is_person, "give an object with `async def answer(question)`"),
    "limits": _Form(
        _is(Limits, Mapping), "give `fractale.Limits(…)`, or a mapping like a plan's `limits`"
    ),
    "callbacks": _Form(_are_callbacks, "give a list of LangChain's callback handlers"),
    "tags": _Form(_list_of(_is(str), str), "give a list of texts"),
    "live": _Form(
        lambda value: value in ("tools", "model"), 'give "tools" or "model": what is called'
    ),
    "idle": _Form(_is_seconds, "give a number of seconds", never_none=True),
    "interrupt_before": _STOPS,
    "interrupt_after": _STOPS,
    "transformers": _Form(_list_of(callable), "give a list of functions"),
    "plan": _Form(_is(str, Path, Plan), "give a path or YAML text"),
    "status": _Form(_list_of(_is(str), str), "give a text, or a list of texts"),
    "since": _Form(_is(int, float), "give a Unix time, such as `time.time()`"),
    "limit": _Form(_is_count, "give the largest number of runs"),
}
