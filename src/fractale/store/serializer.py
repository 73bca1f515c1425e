"""Values of checkpoints as bytes: plain types only, each with a checksum."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from typing import Any, Final, TypeAlias, cast

import ormsgpack
from langchain_core.messages import BaseMessage, message_to_dict, messages_from_dict
from langgraph.checkpoint.serde.event_hooks import SerdeEvent, register_serde_event_listener
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.types import Interrupt

from fractale.errors import StoreError
from fractale.plain import readable

HINT = "the database was damaged or written by something else; nothing in it was run"
KINDS = ("null", "bytes", "bytearray", "msgpack")
SUMMED = "summed:"
"""Prefix of the type name of a value whose bytes start with a checksum of the rest."""
SUM_BYTES = 8
INTEGER, TEXT, PAIRS, MESSAGE, INTERRUPT = range(100, 105)
"""fractale's own types in msgpack; LangGraph's begin at 0."""
OPTIONS = (
    ormsgpack.OPT_NON_STR_KEYS
    | ormsgpack.OPT_PASSTHROUGH_DATACLASS
    | ormsgpack.OPT_PASSTHROUGH_DATETIME
    | ormsgpack.OPT_PASSTHROUGH_ENUM
    | ormsgpack.OPT_PASSTHROUGH_UUID
)
"""LangGraph's options, without the one that replaces lone surrogates."""


def checksum(*parts: bytes) -> bytes:
    """A short hash of byte strings; it differs if the bytes or the borders between them differ."""
    digest = hashlib.blake2b(digest_size=SUM_BYTES)
    for part in parts:
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.digest()


Types: TypeAlias = frozenset[tuple[str, ...]]
"""Types of Python: the module and the name of each."""

_ALLOWED: Final[ContextVar[Types]] = ContextVar("fractale_checkpoint_types", default=frozenset())


@contextmanager
def allowing(types: Types) -> Generator[None]:
    """Also read these types in the block: those that a LangGraph agent of the user declares."""
    token = _ALLOWED.set(types)
    try:
        yield
    finally:
        _ALLOWED.reset(token)


@lru_cache(maxsize=64)
def _reader(types: Types) -> StrictSerializer:
    return StrictSerializer(types)


class StrictSerializer(JsonPlusSerializer):
    """Reads plain data and LangGraph's own safe types; anything else is an error.

    LangGraph's serializer is permissive by default: a crafted checkpoint can run code. Its strict
    mode returns a raw value instead of a type that it refused. Both are unsafe: a checkpoint with
    anything unexpected in it cannot be trusted at all.

    A checkpoint whose bytes changed on the disk cannot be trusted either, so each value has a
    checksum. Values without one, as fractale 0.2 and LangGraph itself write them, are accepted.
    Integers of any size and lone surrogates are kept, which msgpack alone cannot do.

    Args:
        types: More types to read; see also `allowing`.
    """

    def __init__(self, types: Types = frozenset()) -> None:
        super().__init__(
            pickle_fallback=False,
            allowed_json_modules=None,
            allowed_msgpack_modules=tuple(types) or None,
        )
        self._types = types
        self._unpack_ext_hook = _with_own_types(self._unpack_ext_hook)
        self._custom_unpack_ext_hook = True  # else LangGraph installs its own

    def dumps_typed(self, obj: Any) -> tuple[str, bytes]:
        """One value as its type name and bytes.

        Raises:
            StoreError: A part of it cannot be kept in a checkpoint.
        """
        kind, data = self._dumps(obj)
        if kind == "null":
            return kind, data
        return f"{SUMMED}{kind}", checksum(kind.encode(), data) + data

    def _dumps(self, obj: Any) -> tuple[str, bytes]:
        if obj is None or isinstance(obj, bytes | bytearray):
            return super().dumps_typed(obj)
        try:
            try:
                return "msgpack", ormsgpack.packb(obj, default=self._langgraphs, option=OPTIONS)
            except TypeError:
                return "msgpack", self._pack(obj)
        except (TypeError, ValueError) as error:
            raise StoreError(f"a value cannot be kept in a checkpoint: {error}") from error

    def _langgraphs(self, obj: Any) -> ormsgpack.Fragment:
        """A value that is not plain data, as LangGraph writes it.

        Raises:
            TypeError: LangGraph would refuse or replace something in it.
        """
        if isinstance(obj, Interrupt):
            ormsgpack.packb(obj.value, option=OPTIONS)
        elif isinstance(obj, BaseMessage):
            inside: list[Any] = [obj.content, getattr(obj, "tool_calls", None)]  # pyright: ignore[reportUnknownMemberType] - LangChain's list of anything
            ormsgpack.packb(inside, option=OPTIONS)
        return ormsgpack.Fragment(super().dumps_typed(obj)[1])

    def _pack(self, value: Any) -> bytes:
        return ormsgpack.packb(self._coded(value), option=OPTIONS)

    def _coded(self, value: Any) -> Any:
        """A value in which types that msgpack lacks, at any depth, are fractale's own types."""
        match value:
            case None | bool() | float() | bytes():
                return value
            case str():
                fits = readable(value) == value
                return (
                    value if fits else ormsgpack.Ext(TEXT, value.encode("utf-8", "surrogatepass"))
                )
            case int():
                fits = -(2**63) <= value < 2**64
                return value if fits else ormsgpack.Ext(INTEGER, str(value).encode())
            case dict():
                return self._coded_table(cast("dict[Any, Any]", value))
            case list() | tuple():
                return [self._coded(each) for each in cast("list[Any]", value)]
            case BaseMessage():
                return ormsgpack.Ext(MESSAGE, self._pack(message_to_dict(value)))
            case Interrupt():
                return ormsgpack.Ext(INTERRUPT, self._pack([value.value, value.id]))
            case _:
                return self._langgraphs(value)

    def _coded_table(self, table: dict[Any, Any]) -> Any:
        """A mapping; pairs if msgpack does not accept one of its keys."""
        keys = [self._coded(key) for key in table]
        values = [self._coded(value) for value in table.values()]
        if any(isinstance(key, ormsgpack.Ext) for key in keys):
            pairs = [list(pair) for pair in zip(keys, values, strict=True)]
            return ormsgpack.Ext(PAIRS, ormsgpack.packb(pairs, option=OPTIONS))
        return dict(zip(keys, values, strict=True))

    def loads_typed(self, data: tuple[str, bytes]) -> Any:
        """Read one stored value.

        Args:
            data: The serializer's type name and the bytes.

        Raises:
            StoreError: The bytes have a type outside the allow-list, or are damaged.
        """
        if (types := _ALLOWED.get()) and not types <= self._types:
            return _reader(types | self._types).loads_typed(data)
        kind, stored = _checked(*data)
        blocked: list[SerdeEvent] = []
        unregister = register_serde_event_listener(blocked.append)
        try:
            value = super().loads_typed((kind, stored))
        except Exception as error:
            raise StoreError(f"a checkpoint cannot be read: {error}", hint=HINT) from error
        finally:
            unregister()
        if blocked:
            first = blocked[0]
            raise StoreError(
                f"a checkpoint holds the refused type {first['module']}.{first['name']}", hint=HINT
            )
        return value


def _with_own_types(hook: Callable[[int, bytes], Any]) -> Callable[[int, bytes], Any]:
    """A hook that reads the extension types of a checkpoint: LangGraph's and fractale's own."""

    def inside(data: bytes) -> Any:
        return ormsgpack.unpackb(data, ext_hook=read, option=ormsgpack.OPT_NON_STR_KEYS)

    own: dict[int, Callable[[bytes], Any]] = {
        INTEGER: int,
        TEXT: lambda data: data.decode("utf-8", "surrogatepass"),
        PAIRS: lambda data: dict(inside(data)),
        MESSAGE: lambda data: messages_from_dict([inside(data)])[0],
        INTERRUPT: lambda data: Interrupt(*inside(data)),
    }

    def read(code: int, data: bytes) -> Any:
        return own[code](data) if code in own else hook(code, data)

    return read


def _checked(kind: Any, data: Any) -> tuple[str, bytes]:
    """The type name, and the bytes without their checksum, after comparing them.

    A damaged file can have anything in place of either.
    """
    summed = isinstance(kind, str) and kind.startswith(SUMMED)
    plain: Any = kind.removeprefix(SUMMED) if summed else kind
    if plain not in KINDS:
        raise StoreError(f"a checkpoint holds a value of the refused kind `{plain}`", hint=HINT)
    if not isinstance(data, bytes | bytearray):
        raise StoreError("a checkpoint holds a value that is not bytes", hint=HINT)
    stored = bytes(data)
    if not summed:
        return plain, stored
    if stored[:SUM_BYTES] != checksum(plain.encode(), stored[SUM_BYTES:]):
        raise StoreError("a checkpoint was changed or damaged: its sum does not fit", hint=HINT)
    return plain, stored[SUM_BYTES:]
