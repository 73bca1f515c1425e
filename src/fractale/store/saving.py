"""What fractale asks of a saver beyond what LangGraph does."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any

from langgraph.checkpoint.base import BaseCheckpointSaver

REFERENCE = re.compile(rb"sha256:([0-9a-f]{64})")
"""How a reference to an output looks in anything that is stored."""


class RunSaver(BaseCheckpointSaver[str]):
    """A saver that also knows how much it keeps, and lets one process at a time have a run."""

    @abstractmethod
    async def references(self, thread_id: str) -> set[str]:
        """The hashes of the outputs that a run's checkpoints refer to, old ones included."""

    @abstractmethod
    async def sizes(self) -> Mapping[str, int]:
        """How many bytes each run's checkpoints take."""

    @abstractmethod
    async def reclaim(self) -> None:
        """Give the space of what was deleted back, as far as nobody else needs the database."""

    @abstractmethod
    def holding(self, run_id: str) -> AbstractAsyncContextManager[None]:
        """Have a run for oneself among all that use this database.

        Raises:
            RunHeld: Another process has it.
        """


def references_in(stored: Iterable[Any]) -> set[str]:
    """The hashes of the outputs that some stored values refer to."""
    found: set[str] = set()
    for value in stored:
        data = value.encode() if isinstance(value, str) else bytes(value or b"")
        found.update(match.decode() for match in REFERENCE.findall(data))
    return found
