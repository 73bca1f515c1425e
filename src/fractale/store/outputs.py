"""Large values, stored once under the hash of their content.

A checkpoint repeats the whole state at every step. So a value over `INLINE_LIMIT` bytes is stored
here, and the state has a reference to it: ``{"$ref": "sha256:…", "bytes": n}``. A value that some
checkpointers cannot keep is stored here, too.

A text of more than `LARGE_TEXT` characters has a file of its own, as it is, wherever in a value it
is. So a text that a tool returned, and that later steps use, is on the disk once: the outputs of
steps, the journal of calls and the events refer to it. They have its beginning in its place, and a
list of *parts* beside: ``[{"at": ["text"], "text": "sha256:…", "bytes": n}]``. `divided` makes
both, and `whole` restores the value.

A run on a checkpointer of the caller's own has no other place that outlives its process. Its state
has every value itself (`InlineOutputs`), so that another process can continue the run.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, cast

from fractale.errors import StoreError
from fractale.masking import Masker
from fractale.plain import to_json
from fractale.private import make_folder, write_private

INLINE_LIMIT = 1024
LARGE_TEXT = 256 * 1024
"""Characters from which a text has a file of its own."""
BEGINNING = 2000
"""Characters of such a text that stay in its place."""
_CHUNK = 1024 * 1024
_UNCOMMON = re.compile(rb"[0-9]{20}|-[0-9]{19}|\\ud[89a-f]")
"""JSON that may have an integer over 64 bits or a surrogate; also matches text that looks so."""
_SURROGATE = re.compile("[\ud800-\udfff]")
REF_KEY = "$ref"
PARTS_KEY = "$parts"
"""The key of the parts in the file of a value that is divided, beside ``value``."""
JSON_KEY = "$json"
"""The one key of a value that `InlineOutputs` keeps as JSON text."""
JSON_MARK = f'"{JSON_KEY}"'.encode()


class OutputStore(Protocol):
    """Stores JSON values by content."""

    def put(self, value: Any) -> Any:
        """The value itself if it fits into a checkpoint, else a reference to it."""
        ...

    def get(self, value: Any) -> Any:
        """The value that a reference names; any other value unchanged."""
        ...

    def put_file(self, data: bytes, suffix: str) -> Path | None:
        """Store bytes as a file; returns its path, or None if this store has no files."""
        ...


def is_reference(value: Any) -> bool:
    """Whether a value is a reference that `put` made."""
    if not isinstance(value, dict):
        return False
    table = cast("dict[str, Any]", value)
    ref = table.get(REF_KEY)
    return len(table) == 2 and isinstance(ref, str) and ref.startswith("sha256:")


def encode(value: Any) -> bytes:
    """JSON in one form: the same value, with its keys in the same order, gives the same bytes."""
    return to_json(value, compact=True).encode()


def _fits_inline(data: bytes) -> bool:
    """Whether a value can be in the state: it is small, and any checkpointer can keep it.

    LangGraph's serializers refuse integers over 64 bits and replace lone surrogates.
    """
    return len(data) <= INLINE_LIMIT and not _UNCOMMON.search(data)


# -- large texts -----------------------------------------------------------------------------------

Part = dict[str, Any]
"""Where a large text belongs in a value, the checksum of its UTF-8, and its bytes."""
TEXT_KEY = "text"
"""The key of the checksum in a part."""


def has_large(value: Any) -> bool:
    """Whether a JSON value has a text that gets a file of its own."""
    if isinstance(value, str):
        return len(value) > LARGE_TEXT
    if isinstance(value, Mapping):
        return any(map(has_large, cast("Mapping[str, Any]", value).values()))
    if isinstance(value, (list, tuple)):
        return any(map(has_large, cast("Sequence[Any]", value)))
    return False


def divided(value: Any, keep: Callable[[str], dict[str, Any]]) -> tuple[Any, list[Part]]:
    """A JSON value without its large texts, and the parts that it lacks.

    Args:
        keep: Stores a text and returns its checksum and bytes, as they are in a part.

    Returns:
        The value itself and no parts if it has no large text. Else a copy with the beginning of
        each in its place, followed by its length and checksum: two copies are equal if and only if
        the values are.
    """
    if not has_large(value):
        return value, []
    parts: list[Part] = []
    return _divided(value, keep, (), parts), parts


def _divided(
    value: Any, keep: Callable[[str], dict[str, Any]], at: tuple[Any, ...], parts: list[Part]
) -> Any:
    if isinstance(value, str):
        if len(value) <= LARGE_TEXT:
            return value
        kept = keep(value)
        parts.append({"at": list(at), **kept})
        return f"{value[:BEGINNING]}… ({len(value)} characters, {kept[TEXT_KEY]})"
    if isinstance(value, Mapping):
        table = cast("Mapping[str, Any]", value)
        return {key: _divided(each, keep, (*at, key), parts) for key, each in table.items()}
    if isinstance(value, (list, tuple)):
        items = cast("Sequence[Any]", value)
        return [_divided(each, keep, (*at, i), parts) for i, each in enumerate(items)]
    return value


def whole(value: Any, parts: Sequence[Part], get: Callable[[Part], str]) -> Any:
    """The value that `divided` was given; the copy is changed in place.

    Args:
        get: Returns the text of a part.

    Raises:
        StoreError: A text is missing or damaged, or the parts do not fit the value.
    """
    for part in parts:
        try:
            *path, last = part["at"] or [None]
            text = get(part)
            if last is None:
                value = text
                continue
            inner = value
            for key in path:
                inner = inner[key]
            _ = inner[last]  # what is there now: its beginning
            inner[last] = text
        except (LookupError, TypeError) as error:
            raise StoreError(f"a large text belongs nowhere in its value: {error}") from error
    return value


def in_brief(value: Any) -> Any:
    """The value as `divided` returns it, without storing anything."""
    return divided(value, _identity_of)[0]


def _identity_of(text: str) -> dict[str, Any]:
    """The checksum and the bytes of a text."""
    digest, size = hashlib.sha256(), 0
    for chunk in _chunks(text):
        digest.update(chunk)
        size += len(chunk)
    return {TEXT_KEY: f"sha256:{digest.hexdigest()}", "bytes": size}


def _chunks(text: str) -> Iterator[bytes]:
    """A text in UTF-8, in pieces, so that it need not be in memory twice."""
    for start in range(0, len(text), _CHUNK):
        yield text[start : start + _CHUNK].encode("utf-8", "surrogatepass")


def _file_of(value: Any, keep: Callable[[str], dict[str, Any]]) -> tuple[bytes, int]:
    """The content of the file of a value, and its size with that of its large texts."""
    short, parts = divided(value, keep)
    if parts or _is_divided(value):  # a value that only looks so is kept in the same form
        short = {PARTS_KEY: parts, "value": short}
    data = encode(short)
    return data, len(data) + sum(part["bytes"] for part in parts)


def _is_divided(value: Any) -> bool:
    """Whether a value has the form that a file of a divided value has."""
    return isinstance(value, Mapping) and set(cast("Mapping[str, Any]", value)) == {
        PARTS_KEY,
        "value",
    }


def _value_of(data: bytes, get: Callable[[Part], str]) -> Any:
    """The value in a file."""
    value = json.loads(data)
    return whole(value["value"], value[PARTS_KEY], get) if _is_divided(value) else value


# -- stores ----------------------------------------------------------------------------------------


class MaskedOutputs:
    """Masks secrets in everything that another `OutputStore` stores."""

    def __init__(self, outputs: OutputStore, masker: Masker) -> None:
        self._outputs = outputs
        self._masker = masker
        self.get = outputs.get
        self.is_inline = is_inline(outputs)

    def put(self, value: Any) -> Any:
        return self._outputs.put(self._masker(value))

    def put_file(self, data: bytes, suffix: str) -> Path | None:
        """Store bytes as a file; if they are text, they are masked."""
        return self._outputs.put_file(self._masker.data(data), suffix)


class MemoryOutputs:
    """An `OutputStore` in memory, for tests and one-off library use."""

    def __init__(self) -> None:
        self._values: dict[str, bytes] = {}
        self._texts: dict[str, str] = {}

    def put(self, value: Any) -> Any:
        data, size = _file_of(value, self._keep_text)
        if size == len(data) and _fits_inline(data):
            return value
        digest = hashlib.sha256(data).hexdigest()
        self._values[digest] = data
        return {REF_KEY: f"sha256:{digest}", "bytes": size}

    def _keep_text(self, text: str) -> dict[str, Any]:
        kept = _identity_of(text)
        self._texts[kept[TEXT_KEY]] = text
        return kept

    def _text_of(self, part: Part) -> str:
        return self._texts[part[TEXT_KEY]]

    def get(self, value: Any) -> Any:
        if not is_reference(value):
            return value
        digest = value[REF_KEY].removeprefix("sha256:")
        if digest not in self._values:
            raise StoreError(f"the output {digest[:12]} is not in this process's memory")
        return _value_of(self._values[digest], self._text_of)

    def put_file(self, data: bytes, suffix: str) -> Path | None:
        """Store nothing."""
        del data, suffix


class InlineOutputs:
    """An `OutputStore` without a place of its own: every value stays in the state.

    A value that some checkpointers cannot keep is in the state as JSON text: ``{"$json": "…"}``.
    """

    def put(self, value: Any) -> Any:
        data = encode(value)
        if _UNCOMMON.search(data) or JSON_MARK in data:
            return {JSON_KEY: data.decode()}
        return value

    def get(self, value: Any) -> Any:
        return json.loads(value[JSON_KEY]) if _is_json_text(value) else value

    def put_file(self, data: bytes, suffix: str) -> Path | None:
        """Store nothing."""
        del data, suffix


def _is_json_text(value: Any) -> bool:
    """Whether a value has the form in which `InlineOutputs` keeps JSON text."""
    if not isinstance(value, dict):
        return False
    table = cast("dict[str, Any]", value)
    return len(table) == 1 and isinstance(table.get(JSON_KEY), str)


def is_inline(outputs: OutputStore) -> bool:
    """Whether the state has every value itself, and its checkpointer may be of any kind."""
    return isinstance(outputs, InlineOutputs) or getattr(outputs, "is_inline", False)


def to_common(value: Any) -> Any:
    """A JSON value in which each part that some checkpointers cannot keep is JSON text.

    `InlineOutputs` does that with whole values. A user can read the other parts of this one.
    """
    if isinstance(value, Mapping):
        table = cast("Mapping[str, Any]", value)
        if JSON_KEY in table or not all(map(_is_common, table)):
            return {JSON_KEY: encode(table).decode()}
        return {key: to_common(each) for key, each in table.items()}
    if isinstance(value, (list, tuple)):
        return [to_common(each) for each in cast("Sequence[Any]", value)]
    return value if _is_common(value) else {JSON_KEY: encode(value).decode()}


def from_common(value: Any) -> Any:
    """The value that `to_common` was given."""
    return resolved(value, InlineOutputs())


def _is_common(value: Any) -> bool:
    """Whether every checkpointer can keep a part of a JSON value."""
    if isinstance(value, str):
        return value.isascii() or not _SURROGATE.search(value)
    return not isinstance(value, int) or -(2**63) <= value < 2**64


def resolved(value: Any, outputs: OutputStore) -> Any:
    """A value of a run's state or events, with each stored value in place of its reference.

    Raises:
        StoreError: A value is missing or damaged.
    """
    found = outputs.get(value)
    if found is not value:
        return found
    if isinstance(value, Mapping):
        table = cast("Mapping[Any, Any]", value)
        return {key: resolved(each, outputs) for key, each in table.items()}
    if isinstance(value, (list, tuple)):
        return [resolved(each, outputs) for each in cast("Sequence[Any]", value)]
    return value


class FileOutputs:
    """An `OutputStore` with one file per value, which only its owner can read.

    Args:
        directory: The directory, made when the first value is stored. Files of values are
            ``ab/cdef….json``, those of large texts ``ab/cdef….txt``.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def path(self, reference: dict[str, Any]) -> Path:
        digest = str(reference[REF_KEY]).removeprefix("sha256:")
        return self._directory / digest[:2] / f"{digest[2:]}.json"

    def paths(self, digest: str) -> tuple[Path, Path]:
        """The files that a hash may belong to: of a value, and of a large text."""
        found = self.path({REF_KEY: digest})
        return found, found.with_suffix(".txt")

    @staticmethod
    def digest_of(path: Path) -> str:
        """The hash in references to a file of the store; no hash for any other file."""
        return f"{path.parent.name}{path.name.removesuffix('.json').removesuffix('.txt')}"

    def put(self, value: Any) -> Any:
        """The value itself if it fits into a checkpoint, else a reference to it.

        The file is on the disk before this returns, because a checkpoint that refers to it comes
        next.

        Raises:
            StoreError: The value cannot be written.
        """
        data, size = _file_of(value, self.put_text)
        if size == len(data) and _fits_inline(data):
            return value
        reference = {REF_KEY: f"sha256:{hashlib.sha256(data).hexdigest()}", "bytes": size}
        self._keep(self.path(reference), data)
        return reference

    def put_text(self, text: str) -> dict[str, Any]:
        """Store a text in a file of its own; returns its checksum and bytes, as in a part.

        Raises:
            StoreError: It cannot be written.
        """
        kept = _identity_of(text)
        self._keep(self._path_of(kept), _chunks(text), kept["bytes"])
        return kept

    def get_text(self, part: Part) -> str:
        """The text that a part names.

        Raises:
            StoreError: The file is missing, or its content does not have the checksum.
        """
        data = self._read(self._path_of(part), str(part[TEXT_KEY]))
        return data.decode("utf-8", "surrogatepass")

    def link_text(self, text: str, path: Path) -> None:
        """Give the file of a text that is stored a second name. It can only be read by that name.

        Raises:
            OSError: The file system has no links, or the name cannot be made.
        """
        source = self._path_of(self.put_text(text))
        source.chmod(0o400)
        path.unlink(missing_ok=True)
        os.link(source, path)

    def _path_of(self, part: Part) -> Path:
        return self.paths(str(part[TEXT_KEY]))[1]

    def put_file(self, data: bytes, suffix: str) -> Path | None:
        """Store bytes as ``files/HASH.suffix``: the same bytes always get the same name.

        Raises:
            StoreError: They cannot be written.
        """
        name = f"{hashlib.sha256(data).hexdigest()[:16]}{suffix}"
        path = self._directory / "files" / name
        self._keep(path, data)
        return path

    def _keep(self, path: Path, data: bytes | Iterator[bytes], size: int | None = None) -> None:
        if path.exists():
            return
        try:
            self._write(path, data)
        except OSError as error:
            size = len(data) if isinstance(data, bytes) else size
            raise StoreError(
                f"cannot keep an output of {size} bytes: {error}",
                hint=f"free space or permissions of {self._directory}; the run can be resumed",
            ) from error

    def _write(self, path: Path, data: bytes | Iterator[bytes]) -> None:
        make_folder(path.parent)
        write_private(path, data)

    def get(self, value: Any) -> Any:
        """The value that a reference names; any other value unchanged.

        Raises:
            StoreError: The file is missing, or its content does not have the reference's hash.
        """
        if not is_reference(value):
            return value
        return _value_of(self._read(self.path(value), value[REF_KEY]), self.get_text)

    @staticmethod
    def _read(path: Path, checksum: str) -> bytes:
        try:
            data = path.read_bytes()
        except OSError as error:
            raise StoreError(
                f"an output of the run is missing: {path}",
                hint="it was removed after the run kept it; start the run again",
            ) from error
        if f"sha256:{hashlib.sha256(data).hexdigest()}" != checksum:
            raise StoreError(
                f"an output of the run was changed or damaged: {path}",
                hint="its content does not fit its hash; start the run again",
            )
        return data
