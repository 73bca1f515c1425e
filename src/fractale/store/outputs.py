"""Large values, kept once, by the hash of their content.

A checkpoint repeats the whole state at every step, so a value over `INLINE_LIMIT` bytes is kept
here and the state holds a reference to it: ``{"$ref": "sha256:…", "bytes": n}``. So is a value
that not every checkpointer can keep.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any, Protocol, cast

from fractale.errors import StoreError
from fractale.masking import Masker
from fractale.plain import to_json
from fractale.private import make_folder, write_private

INLINE_LIMIT = 1024
_UNCOMMON = re.compile(rb"[0-9]{20}|-[0-9]{19}|\\ud[89a-f]")
"""An integer that may be over 64 bits, or a surrogate, in JSON; text that only looks so, too."""
REF_KEY = "$ref"


class OutputStore(Protocol):
    """Keeps JSON values by content."""

    def put(self, value: Any) -> Any:
        """The value itself if it fits into a checkpoint, else a reference to it."""
        ...

    def get(self, value: Any) -> Any:
        """The value that a reference stands for; any other value unchanged."""
        ...

    def put_file(self, data: bytes, suffix: str) -> Path | None:
        """Keep bytes as a file of their own: its path; None where nothing is kept in files."""
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
    """Whether a value can stand in the state: it is small, and any checkpointer can keep it.

    LangGraph's serializers refuse integers over 64 bits and replace lone surrogates.
    """
    return len(data) <= INLINE_LIMIT and not _UNCOMMON.search(data)


class MaskedOutputs:
    """Masks secrets in all that another `OutputStore` keeps."""

    def __init__(self, outputs: OutputStore, masker: Masker) -> None:
        self._outputs = outputs
        self._masker = masker
        self.get = outputs.get

    def put(self, value: Any) -> Any:
        """The value, masked, or a reference to it."""
        return self._outputs.put(self._masker(value))

    def put_file(self, data: bytes, suffix: str) -> Path | None:
        """Keep bytes as a file of their own, masked if they are text."""
        return self._outputs.put_file(self._masker.data(data), suffix)


class MemoryOutputs:
    """An `OutputStore` that ends with the process, for tests and one-off library use."""

    def __init__(self) -> None:
        self._values: dict[str, bytes] = {}

    def put(self, value: Any) -> Any:
        """The value itself if it fits into a checkpoint, else a reference to it."""
        data = encode(value)
        if _fits_inline(data):
            return value
        digest = hashlib.sha256(data).hexdigest()
        self._values[digest] = data
        return {REF_KEY: f"sha256:{digest}", "bytes": len(data)}

    def get(self, value: Any) -> Any:
        """The value that a reference stands for; any other value unchanged."""
        if not is_reference(value):
            return value
        digest = value[REF_KEY].removeprefix("sha256:")
        if digest not in self._values:
            raise StoreError(f"the output {digest[:12]} is not in this process's memory")
        return json.loads(self._values[digest])

    def put_file(self, data: bytes, suffix: str) -> Path | None:
        """No file is kept."""
        del data, suffix


class FileOutputs:
    """An `OutputStore` of one file a value, readable by its owner only.

    Args:
        folder: Made on the first value kept. Files are ``ab/cdef….json``.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path(self, reference: dict[str, Any]) -> Path:
        """The file that a reference stands for."""
        digest = str(reference[REF_KEY]).removeprefix("sha256:")
        return self._folder / digest[:2] / f"{digest[2:]}.json"

    @staticmethod
    def digest_of(path: Path) -> str:
        """The hash that a reference to a file of the store has; no hash for any other file."""
        return f"{path.parent.name}{path.name.removesuffix('.json')}"

    def put(self, value: Any) -> Any:
        """The value itself if it fits into a checkpoint, else a reference to it.

        The file is on the disk before this returns, since a checkpoint that refers to it comes
        next.

        Raises:
            StoreError: The value cannot be written.
        """
        data = encode(value)
        if _fits_inline(data):
            return value
        reference = {REF_KEY: f"sha256:{hashlib.sha256(data).hexdigest()}", "bytes": len(data)}
        self._keep(self.path(reference), data)
        return reference

    def put_file(self, data: bytes, suffix: str) -> Path | None:
        """Keep bytes as ``files/HASH.suffix``: a name that stays the same for the same bytes.

        Raises:
            StoreError: They cannot be written.
        """
        name = f"{hashlib.sha256(data).hexdigest()[:16]}{suffix}"
        path = self._folder / "files" / name
        self._keep(path, data)
        return path

    def _keep(self, path: Path, data: bytes) -> None:
        if path.exists():
            return
        try:
            self._write(path, data)
        except OSError as error:
            raise StoreError(
                f"cannot keep an output of {len(data)} bytes: {error}",
                hint=f"free space or permissions of {self._folder}; the run can be resumed",
            ) from error

    def _write(self, path: Path, data: bytes) -> None:
        make_folder(path.parent)
        write_private(path, data)

    def get(self, value: Any) -> Any:
        """The value that a reference stands for; any other value unchanged.

        Raises:
            StoreError: The file is gone, or its content is not what the reference says.
        """
        if not is_reference(value):
            return value
        path = self.path(value)
        try:
            data = path.read_bytes()
        except OSError as error:
            raise StoreError(
                f"an output of the run is missing: {path}",
                hint="it was removed after the run kept it; start the run again",
            ) from error
        if f"sha256:{hashlib.sha256(data).hexdigest()}" != value[REF_KEY]:
            raise StoreError(
                f"an output of the run was changed or damaged: {path}",
                hint="its content does not fit its hash; start the run again",
            )
        return json.loads(data)
