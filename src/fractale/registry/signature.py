"""A function's signature: JSON Schemas of its arguments and answer, and validated calls.

The schemas equal those that FastMCP makes of the same function.
"""

from __future__ import annotations

import functools
import inspect
import re
import types as python_types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import SimpleNamespace
from typing import (
    Annotated,
    Any,
    Final,
    Generic,
    TypeVar,
    Union,
    cast,
    get_args,
    get_origin,
    get_type_hints,
)

from mcp import types
from pydantic import BaseModel, Field, TypeAdapter, ValidationError
from pydantic.errors import PydanticUndefinedAnnotation, PydanticUserError

from fractale.errors import ToolError
from fractale.registry.calls import Progress, guarded, invoke
from fractale.registry.injected import InjectedParameter, injected_in, values_of
from fractale.registry.schemas import WRAPPED, inlined, untitled

_CONTENT = (
    types.TextContent,
    types.ImageContent,
    types.AudioContent,
    types.ResourceLink,
    types.EmbeddedResource,
)
_UNKNOWN: Final = (NameError, TypeError, AttributeError, SyntaxError, ValueError)
"""Errors from an annotation that can't be evaluated, such as one imported for type checkers."""
_T = TypeVar("_T")


@dataclass
class _Wrapped(Generic[_T]):
    result: _T


@dataclass(frozen=True)
class Signature:
    """The parameters and the answer of a function.

    Args:
        function: Sync or async.
        noun: What functions become, for error messages: ``tools``.

    Raises:
        ValueError: The function has ``*args`` or ``**kwargs``, whose names no client can know.
    """

    function: Callable[..., Any]
    noun: str = "tools"

    def __post_init__(self) -> None:
        for parameter in self.parameters.values():
            if parameter.kind is parameter.VAR_POSITIONAL:
                raise ValueError(f"functions with *args can't be {self.noun}")
            if parameter.kind is parameter.VAR_KEYWORD:
                raise ValueError(f"functions with **kwargs can't be {self.noun}")

    @cached_property
    def parameters(self) -> Mapping[str, inspect.Parameter]:
        """The parameters that a caller may set, by name."""
        known = inspect.signature(self.function).parameters
        return {
            name: known[name]
            for name in known
            if self.hints.get(name) is not Progress and name not in self.injected
        }

    @cached_property
    def injected(self) -> Mapping[str, InjectedParameter]:
        """The parameters that LangGraph sets."""
        return injected_in(self.hints)

    @cached_property
    def hints(self) -> dict[str, Any]:
        """The annotations by name; the answer's is ``return``."""
        return {name: _described(hint) for name, hint in hints_of(self.function).items()}

    @cached_property
    def docstring(self) -> Docstring:
        """The description of the function and of its arguments."""
        return read_docstring(self.function)

    @cached_property
    def adapter(self) -> TypeAdapter[Any]:
        """Validates arguments, and makes the coroutine of the call."""
        return TypeAdapter(self._checkable())

    def _checkable(self) -> Any:
        """The function with the parameters that a caller may set; it can't block the server."""
        injected = {name: Progress() for name, hint in self.hints.items() if hint is Progress}
        function = functools.partial(self.function, **injected) if injected else self.function
        if self.injected:
            function = self._with_injected(function)
        call: Any = guarded(function, ToolError)
        call.__signature__ = inspect.Signature([*self.parameters.values()])
        call.__annotations__ = {
            name: self.hints[name] for name in self.parameters if name in self.hints
        }
        return call

    def _with_injected(self, function: Callable[..., Any]) -> Callable[..., Any]:
        name = getattr(self.function, "__name__", type(self.function).__name__)

        async def call(*args: Any, **kwargs: Any) -> Any:
            more = await values_of(self.injected, name, kwargs)
            return await invoke(function, *args, **kwargs, **more)

        return call

    async def call(self, arguments: Mapping[str, Any]) -> Any:
        """Call the function with validated and converted arguments.

        Raises:
            ToolError: The arguments don't fit (the message is without their values), or the
                function raised.
        """
        try:
            coroutine = self.adapter.validate_python(dict(arguments))
        except ValidationError as error:
            raise ToolError(misfit(error)) from error
        return await coroutine

    def arguments_schema(self) -> dict[str, Any]:
        """JSON Schema of the arguments, with the docstring's descriptions.

        Raises:
            PydanticUserError: An annotation has no JSON Schema.
        """
        schema = untitled(self.adapter.json_schema())
        described = self.docstring.arguments
        for name, known in schema.get("properties", {}).items():
            if name in described:
                known.setdefault("description", described[name])
        return inlined(schema)

    def answer_schema(self) -> dict[str, Any] | None:
        """JSON Schema of the structured answer, an object; None if no annotation describes it.

        An answer that is never an object is wrapped as ``{"result": …}``. One that may be a
        mapping isn't: outcome rules look at the mapping's own keys.
        """
        hint = self.hints.get("return")
        if hint in (None, type(None), Any) or isinstance(hint, str) or _has_content(hint):
            return None
        schema = _answer_schema(hint)
        if schema is None or _is_object(schema, schema):
            return schema and inlined(untitled(schema))
        return _wrapped_schema(hint)


def _answer_schema(hint: Any) -> dict[str, Any] | None:
    try:
        return TypeAdapter(hint).json_schema(mode="serialization", by_alias=_by_alias(hint))
    except (PydanticUserError, PydanticUndefinedAnnotation):  # the tool works without
        return None


def _wrapped_schema(hint: Any) -> dict[str, Any] | None:
    wrapped = cast("Any", _Wrapped)[hint]
    adapter: TypeAdapter[Any] = TypeAdapter(wrapped)
    schema = untitled(adapter.json_schema(mode="serialization", by_alias=_by_alias(hint)))
    if schema["properties"]["result"].get("type", "object") == "object":
        return None
    return {**inlined(schema), WRAPPED: True}


def _is_object(schema: Mapping[str, Any], root: Mapping[str, Any]) -> bool:
    if schema.get("type") == "object" or "properties" in schema:
        return True
    name = str(schema.get("$ref", "")).removeprefix("#/$defs/")
    target = root.get("$defs", {}).get(name)
    return target is not None and target is not schema and _is_object(target, root)


def _by_alias(hint: Any) -> bool:
    """Whether a model's answers use its aliases, by its configuration."""
    model = next((each for each in _members(hint) if _is_model(each)), None)
    configured = model.model_config.get("serialize_by_alias") if model else None
    return configured is not False


def _is_model(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, BaseModel)


def _members(hint: Any) -> Iterator[Any]:
    """The members of an annotation that is a union, else the annotation; without ``Annotated``."""
    origin = get_origin(hint)
    if origin is Annotated:
        yield from _members(get_args(hint)[0])
    elif origin in (Union, python_types.UnionType):
        for each in get_args(hint):
            yield from _members(each)
    else:
        yield hint


def _has_content(hint: Any) -> bool:
    """Whether answers aren't JSON: bytes, MCP's content, or lists of it."""
    return any(each is bytes or _has_parts(each) for each in _members(hint))


def _has_parts(hint: Any) -> bool:
    if isinstance(hint, type) and issubclass(hint, _CONTENT):
        return True
    return any(_has_parts(each) for each in get_args(hint))


def _described(hint: Any) -> Any:
    """``Annotated[int, "words"]`` in pydantic's form: the words are the description."""
    arguments = get_args(hint) if get_origin(hint) is Annotated else ()
    if len(arguments) == 2 and isinstance(arguments[1], str):
        return cast("Any", Annotated)[arguments[0], Field(description=arguments[1])]
    return hint


def misfit(error: ValidationError) -> str:
    """Which arguments don't match the signature, and why; without their values."""
    found = error.errors(include_url=False, include_input=False)
    parts = [f"`{'.'.join(map(str, each['loc']))}`: {each['msg']}" for each in found]
    return f"the arguments don't fit: {'; '.join(parts)}"


def hints_of(function: Callable[..., Any]) -> dict[str, Any]:
    """The annotations of a function by name. One that can't be evaluated stays as written."""
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


# -- docstrings ---------------------------------------------------------------------------------

_STYLES: Final = ("google", "numpy", "sphinx")
_DESCRIBES_ARGUMENTS: Final = re.compile(
    r"^\s*(?:(?:keyword |other )?(?:args|arguments|params|parameters)\b|:(?:param|arg|key))",
    re.IGNORECASE | re.MULTILINE,
)


@dataclass(frozen=True, slots=True)
class Docstring:
    """The parts of a docstring.

    Args:
        text: What the function does; the whole docstring if it describes no arguments.
        arguments: The descriptions of arguments, by name.
    """

    text: str | None = None
    arguments: Mapping[str, str] = field(default_factory=dict[str, str])


def read_docstring(function: Callable[..., Any]) -> Docstring:
    """Read a function's docstring in Google's, NumPy's or Sphinx's style."""
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
