"""A run that another process works on: its history as it grows, and the texts of its models.

`RunFollower` reads what the run records. A model's text is not recorded while it is written: the
process of the run keeps the end of it in a small file, which `text_being_written` reads.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Mapping
from typing import Any, cast

from fractale.events import Event
from fractale.plain import to_json
from fractale.private import write_private
from fractale.record.history_reader import RunFollower
from fractale.store.locks import holder_of
from fractale.store.run_record import RunRecord

__all__ = ["RunFollower", "TextFile", "text_being_written"]

MOST_TEXT = 2000
"""The last characters of a model's text that other processes see."""
MOST_STEPS = 50
"""The most steps whose texts are kept; of more, those that wrote last."""
PAUSE = 0.5
"""The least seconds between two writes of the file."""


def text_being_written(record: RunRecord) -> Mapping[str, str]:
    """The ends of the texts that models are writing in a run now.

    Returns:
        The path of a step or an item → the last `MOST_TEXT` characters. Empty if no process works
        on the run.
    """
    try:
        data = record.written.read_bytes()
    except OSError:
        return {}
    if holder_of(record) is None:  # its process was killed
        return {}
    with contextlib.suppress(ValueError):
        found = json.loads(data)
        if isinstance(found, dict):
            texts = cast("dict[str, Any]", found)
            return {step: text for step, text in texts.items() if isinstance(text, str)}
    return {}


class TextFile:
    """A listener that keeps the texts which models are writing where other processes can read them.

    The file is replaced at most twice a second, and exists only while a model writes. Failures to
    write it are ignored: nothing depends on it.

    Args:
        record: Of a run that this process works on. A file that a killed process left is removed.
        clock: A monotonic clock, in seconds.
    """

    def __init__(self, record: RunRecord, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = record.written
        self._clock = clock
        self._texts: dict[str, str] = {}
        self._due = 0.0
        self._exists = True  # perhaps
        self.close()

    def __call__(self, event: Event) -> None:
        step = str(event.data.get("step") or "")
        if event.kind == "model_text":
            self._texts[step] = (self._texts.pop(step, "") + event.data["text"])[-MOST_TEXT:]
            if len(self._texts) > MOST_STEPS:
                del self._texts[next(iter(self._texts))]
        else:
            is_of_model = event.kind in ("model_started", "model_finished")
            if not is_of_model or self._texts.pop(step, None) is None:
                return
        if not self._texts:
            self.close()
        elif self._clock() >= self._due:
            self._write()

    def _write(self) -> None:
        self._due = self._clock() + PAUSE
        with contextlib.suppress(OSError):
            write_private(self._path, to_json(self._texts), sync="none")
            self._exists = True

    def close(self) -> None:
        """Remove the file, if there is one."""
        self._texts.clear()
        if self._exists:
            with contextlib.suppress(OSError):
                self._path.unlink(missing_ok=True)
            self._exists = False
