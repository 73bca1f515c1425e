"""What agents keep for the rest of a run: JSON values by key, in the run's folder."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Protocol

from fractale.errors import StoreError
from fractale.plain import to_json
from fractale.store.lines import ROOM


class Notes(Protocol):
    """A run's memory for its agents."""

    def get(self, key: str) -> Any:
        """The value, or None."""
        ...

    def put(self, key: str, value: Any) -> None:
        """Keep a JSON value, replacing what was there."""
        ...

    def drop(self, key: str) -> None:
        """Forget a value; a file of notes shows it no later than the next `put`."""
        ...


class MemoryNotes:
    """Notes of a run that is not kept."""

    def __init__(self) -> None:
        self._values: dict[str, Any] = {}

    def get(self, key: str) -> Any:
        """The value, or None."""
        return self._values.get(key)

    def put(self, key: str, value: Any) -> None:
        """Keep a JSON value, replacing what was there."""
        self._values[key] = value

    def drop(self, key: str) -> None:
        """Forget a value."""
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
        part = self._path.with_name(f"{self._path.name}.part")
        try:
            descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(to_json(self._values))
                file.flush()
                os.fsync(file.fileno())
            part.replace(self._path)
        except OSError as error:
            raise StoreError(f"{self._path} cannot be written: {error}", hint=ROOM) from error
