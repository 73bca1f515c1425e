"""Which thread of the development server is which run.

The server knows threads by UUID, fractale knows runs by short ids. A run that was started in
Studio has the last block of its thread's UUID as its id, and its record names the thread; the
thread of any other run follows from its id.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

from fractale.errors import StoreError
from fractale.store.run_record import RunRecord, RunRecords

NAMESPACE = uuid.UUID("5b1b2f0e-6a0f-5d6b-9a52-0d5f6f1c7a11")
KEPT_AS = "studio"
"""Where a run's head says which thread it was started on."""


class RunThreads:
    """The threads of the runs of one state folder."""

    def __init__(self, folders: RunRecords) -> None:
        self._folders = folders

    def run_of(self, thread: str) -> RunRecord | None:
        """The run of a thread; None if it has none yet."""
        for run_id in _own_ids(thread):
            folder = self._folders.at(run_id)
            if _started_on(read_head(folder)) == thread:
                return folder
        # A version 5 UUID is one that was made from a run's id.
        if uuid.UUID(thread).version != 5:
            return None
        names = self._folders.names()
        found = next((name for name in names if thread_of_id(name) == thread), None)
        return self._folders.at(found) if found else None

    def id_for(self, thread: str) -> str:
        """The id that the run of a new thread gets."""
        short, whole = _own_ids(thread)
        return whole if read_head(self._folders.at(short)) else short


def thread_of(run_id: str, head: Mapping[str, Any]) -> str:
    """The thread of a run."""
    return _started_on(head) or thread_of_id(run_id)


def thread_of_id(run_id: str) -> str:
    """The thread of a run that was not started in Studio."""
    return str(uuid.uuid5(NAMESPACE, run_id))


def read_head(folder: RunRecord) -> dict[str, Any]:
    """How a run was started; empty where there is no such run, or none that got so far."""
    try:
        return folder.read_head()
    except StoreError:
        return {}


def _own_ids(thread: str) -> tuple[str, str]:
    return thread.rpartition("-")[2], thread


def _started_on(head: Mapping[str, Any]) -> str | None:
    return head.get(KEPT_AS, {}).get("thread")
