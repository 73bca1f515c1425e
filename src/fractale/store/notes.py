"""Values that agents keep for the rest of a run: JSON by key, in the run's directory."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from fractale.errors import CHECK_SPACE, StoreError
from fractale.masking import Masker
from fractale.plain import to_json
from fractale.private import write_private


class Notes(Protocol):
    """A run's memory for its agents."""

    def get(self, key: str) -> Any: ...

    def put(self, key: str, value: Any) -> None:
        """Keep a JSON value, replacing what was there."""
        ...

    def drop(self, key: str) -> None:
        """Remove a value; a file of notes shows it until the next `put` at the latest."""
        ...


class MaskedNotes:
    """Masks secrets in all that other notes keep."""

    def __init__(self, notes: Notes, masker: Masker) -> None:
        self._notes = notes
        self._masker = masker
        self.get = notes.get
        self.drop = notes.drop

    def put(self, key: str, value: Any) -> None:
        self._notes.put(key, self._masker(value))


class MemoryNotes:
    """Notes of a run that is not recorded.

    Args:
        values: The notes that an earlier process left.
    """

    def __init__(self, values: Mapping[str, Any] | None = None) -> None:
        self._values: dict[str, Any] = dict(values or {})

    def values(self) -> dict[str, Any]:
        """All notes by their keys."""
        return dict(self._values)

    def get(self, key: str) -> Any:
        return self._values.get(key)

    def put(self, key: str, value: Any) -> None:
        self._values[key] = value

    def drop(self, key: str) -> None:
        self._values.pop(key, None)


class FileNotes(MemoryNotes):
    """Notes in a file that is replaced as a whole at each change.

    Raises:
        StoreError: The file is damaged.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        try:
            self._values = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            self._values = {}
        except (OSError, ValueError) as error:
            raise StoreError(f"{path} cannot be read: {error}") from error

    def put(self, key: str, value: Any) -> None:
        """Keep a JSON value, replacing what was there.

        Raises:
            StoreError: The file cannot be written.
        """
        super().put(key, value)
        try:
            write_private(self._path, to_json(self._values))
        except OSError as error:
            raise StoreError(
                f"{self._path} cannot be written: {error}", hint=CHECK_SPACE
            ) from error
