"""Traces without secrets: every callback handler of a run sees masked values only.

A tracer is a LangChain callback handler: LangSmith's, OpenTelemetry's, the caller's own. Most come
with the run's config; others LangChain adds because of the environment. Each is replaced by its
alias: the same object under a class whose ``on_…`` methods mask their arguments first.

LangSmith's own ``@traceable`` passes by the handlers: LangChain's agents report the hooks of their
middleware with it. It uses the client of the run around, so the alias of LangSmith's tracer gives
these runs a client that masks.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import traceback
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

from langchain_core.callbacks import AsyncCallbackManager, BaseCallbackHandler
from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import var_child_runnable_config
from langgraph._internal._config import ensure_config  # no public function merges them like a run
from pydantic import BaseModel

from fractale.masking import Masker

if TYPE_CHECKING:
    from langchain_core.callbacks import Callbacks

C = TypeVar("C", bound=Mapping[str, Any])

_ALIAS: Final = "_fractale_masker"
_MOST_DEPTH: Final = 40
_PLAIN: Final = (type(None), bool, int, float, complex)


@contextmanager
def masked(config: C, masker: Masker) -> Generator[C]:
    """The config of a run of a graph, whose handlers see no secret. Start the run in the block.

    LangGraph adds the handlers of the code around, such as a node of another graph. So these are
    in the config, masked, and LangGraph does not see them in the block.

    Args:
        masker: The run's. It may learn more secrets during the run.
    """
    whole = ensure_config(cast("RunnableConfig", config))
    callbacks = masked_callbacks(whole.get("callbacks"), masker)
    around = var_child_runnable_config.get()
    token = None
    if around is not None and around.get("callbacks"):
        token = var_child_runnable_config.set({**around, "callbacks": None})
    try:
        yield cast("C", {**config, "callbacks": callbacks}) if callbacks else config
    finally:
        if token is not None:
            var_child_runnable_config.reset(token)


def masked_callbacks(callbacks: Callbacks, masker: Masker) -> AsyncCallbackManager | None:
    """The handlers of a run, with those that LangChain would add itself, as aliases.

    Returns:
        None if no handler is there.
    """
    manager = AsyncCallbackManager.configure(callbacks)
    if not manager.handlers:
        return None
    known: dict[int, BaseCallbackHandler] = {}

    def alias(handler: BaseCallbackHandler) -> BaseCallbackHandler:
        if id(handler) not in known:
            known[id(handler)] = _alias(handler, masker)
        return known[id(handler)]

    manager.handlers = [alias(each) for each in manager.handlers]
    manager.inheritable_handlers = [alias(each) for each in manager.inheritable_handlers]
    return manager


def _alias(handler: BaseCallbackHandler, masker: Masker) -> BaseCallbackHandler:
    if getattr(handler, _ALIAS, None) is masker or _is_of_a_variable(handler):
        return handler
    made = object.__new__(_class_of(type(handler), masker))
    # Not a copy: what the handler collects is found in the handler that the caller has.
    object.__setattr__(made, "__dict__", vars(handler))
    for kind in type(handler).__mro__:
        slots: Any = vars(kind).get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if not name.startswith("__") and hasattr(handler, name):
                object.__setattr__(made, name, getattr(handler, name))
    return made


def _is_of_a_variable(handler: BaseCallbackHandler) -> bool:
    """Whether LangChain adds the handler to each run again unless it is that object.

    These collect in the process, such as ``get_usage_metadata_callback()``.
    """
    from langchain_core.tracers import context

    hooks = cast("list[tuple[Any, bool, Any, Any]]", vars(context)["_configure_hooks"])
    return any(kind is None and var.get() is handler for var, _, kind, _ in hooks)


def _class_of(kind: type[BaseCallbackHandler], masker: Masker) -> type[BaseCallbackHandler]:
    """A class of handlers like this one. LangSmith's makes copies of itself by its class."""
    methods: dict[str, Any] = {
        name: _masking(getattr(kind, name), masker)
        for name in dir(kind)
        if name.startswith("on_") and callable(getattr(kind, name))
    }
    known = {**methods, _ALIAS: masker, "__module__": kind.__module__}
    if hasattr(kind, "get_run_url"):  # LangSmith's tracer; importing it takes a while
        known["client"] = _masking_client(masker)
    return type(kind.__name__, (kind,), known)


def _masking_client(masker: Masker) -> property:
    """The attribute of a tracer that has its client."""
    known: dict[int, MaskingClient] = {}  # a tracer compares clients

    def get(tracer: Any) -> Any:
        client = cast("dict[str, Any]", vars(tracer)).get("client")
        if client is None or isinstance(client, MaskingClient):
            return client
        return known.setdefault(id(client), MaskingClient(client, masker))

    def set_(tracer: Any, client: Any) -> None:
        vars(tracer)["client"] = client

    return property(get, set_)


class MaskingClient:
    """LangSmith's client, which is sent no secret."""

    def __init__(self, client: Any, masker: Masker) -> None:
        self._client = client
        self._masker = masker

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def create_run(self, *arguments: Any, **keywords: Any) -> Any:
        """Report a run that begins, or that has ended."""
        arguments, keywords = _masked(self._masker, arguments, keywords)
        return self._client.create_run(*arguments, **keywords)

    def update_run(self, *arguments: Any, **keywords: Any) -> Any:
        """Report the end of a run."""
        arguments, keywords = _masked(self._masker, arguments, keywords)
        return self._client.update_run(*arguments, **keywords)


def _masking(method: Callable[..., Any], masker: Masker) -> Callable[..., Any]:
    if inspect.iscoroutinefunction(method):

        @functools.wraps(method)
        async def awaited(self: Any, *arguments: Any, **keywords: Any) -> Any:
            arguments, keywords = _masked(masker, arguments, keywords)
            return await method(self, *arguments, **keywords)

        return awaited

    @functools.wraps(method)
    def called(self: Any, *arguments: Any, **keywords: Any) -> Any:
        arguments, keywords = _masked(masker, arguments, keywords)
        return method(self, *arguments, **keywords)

    return called


def _masked(
    masker: Masker, arguments: tuple[Any, ...], keywords: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if not masker:
        return arguments, keywords
    mask = Values(masker)
    return tuple(mask(each) for each in arguments), {k: mask(v) for k, v in keywords.items()}


class Values:
    """Masks secrets in values of any type. A value without a secret stays the same object."""

    def __init__(self, masker: Masker) -> None:
        self._masker = masker

    def __call__(self, value: Any, depth: int = 0) -> Any:
        """The value, or a copy of it with each secret masked."""
        if isinstance(value, _PLAIN):
            return value
        if isinstance(value, str):
            return self._text(value)
        if depth > _MOST_DEPTH:
            return "…"
        if isinstance(value, bytes):
            return self._masker.data(value)
        if isinstance(value, BaseException):
            return self._error(value)
        if isinstance(value, Mapping):
            return self._mapping(cast("Mapping[Any, Any]", value), depth)
        if isinstance(value, (list, tuple, set, frozenset)):
            return self._sequence(cast("Any", value), depth)
        if isinstance(value, BaseModel):
            return self._model(value, depth)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return self._dataclass(value, depth)
        return self._other(value)

    def _text(self, value: str) -> str:
        text = self._masker.text(value)
        return value if text == value else text

    def _mapping(self, value: Mapping[Any, Any], depth: int) -> Any:
        made = {self(key, depth + 1): self(item, depth + 1) for key, item in value.items()}
        same = all(
            new is old and key in value
            for (key, new), old in zip(made.items(), value.values(), strict=False)
        )
        return value if same and len(made) == len(value) else made

    def _sequence(self, value: Any, depth: int) -> Any:
        items = list(value)
        made = [self(item, depth + 1) for item in items]
        if all(new is old for new, old in zip(made, items, strict=True)):
            return value
        if hasattr(value, "_fields"):  # a named tuple
            return type(value)(*made)
        kind: Any = next(k for k in (list, tuple, set, frozenset) if isinstance(value, k))
        return kind(made)

    def _model(self, value: BaseModel, depth: int) -> Any:
        fields = {name: getattr(value, name) for name in type(value).model_fields}
        fields.update(value.model_extra or {})
        changes = {
            name: new for name, old in fields.items() if (new := self(old, depth + 1)) is not old
        }
        return value.model_copy(update=changes) if changes else value

    def _dataclass(self, value: Any, depth: int) -> Any:
        changes: dict[str, Any] = {}
        for each in dataclasses.fields(value):
            old = getattr(value, each.name, None)
            if (new := self(old, depth + 1)) is not old:
                changes[each.name] = new
        if not changes:
            return value
        try:
            return dataclasses.replace(value, **changes)
        except (TypeError, ValueError):  # a class with an `__init__` of its own
            return self._masker.text(repr(value))

    def _other(self, value: Any) -> Any:
        """An object is shown by a tracer as its text, or by its attributes."""
        try:
            text = repr(value)
            shown = f"{text} {getattr(value, '__dict__', '')!r}"
        except Exception:  # noqa: BLE001 - any code may be in a `__repr__`
            return f"<{type(value).__name__}>"
        return value if self._masker.text(shown) == shown else self._masker.text(text)

    def _error(self, error: BaseException) -> BaseException:
        """An error is shown with its causes. Of one with a secret, only the masked text is left."""
        whole = "".join(traceback.format_exception(error)) + repr(error)
        if self._masker.text(whole) == whole:
            return error
        kind = type(error)
        text = self._masker.text(str(error))
        return type(kind.__name__, (Exception,), {"__module__": kind.__module__})(text)
