"""A run that another process works on: its history as it grows, and the texts of its models.

`RunFollower` reads what the run records. A model's text is not recorded while it is written: the
process of the run keeps the end of it in a small file, which `texts_being_written` reads.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import astuple, dataclass

from fractale.events import Event
from fractale.plain import to_json
from fractale.private import write_private
from fractale.record.history_reader import RunFollower
from fractale.store.locks import holder_of
from fractale.store.run_record import RunRecord

__all__ = [
    "RunFollower",
    "TextFile",
    "WrittenText",
    "text_being_written",
    "texts_being_written",
]

MOST_TEXT = 2000
"""The last characters of a model's text that other processes see."""
MOST_STEPS = 50
"""The most steps whose texts are kept; of more, those that wrote last."""
PAUSE = 0.5
"""The least seconds between two writes of the file."""


@dataclass(frozen=True, slots=True)
class WrittenText:
    """A text that a model is writing.

    Args:
        end: Its last `MOST_TEXT` characters.
        characters: How many it has so far.
        is_data: Whether it is JSON, which is not for people to read.
    """

    end: str
    characters: int
    is_data: bool

    def __add__(self, piece: str) -> WrittenText:
        """The text with its next piece."""
        is_data = self.is_data if self.characters else starts_as_data(piece)
        return WrittenText((self.end + piece)[-MOST_TEXT:], self.characters + len(piece), is_data)


OF_MODELS = ("model_started", "model_text", "model_finished")
"""The kinds of events that a `TextFile` needs."""

NOTHING_YET = WrittenText("", 0, is_data=False)


def starts_as_data(text: str) -> bool:
    """Whether a text that begins so is JSON, also in a block of Markdown."""
    return text.lstrip().startswith(("{", "[{", '["', "```json"))


def texts_being_written(record: RunRecord) -> Mapping[str, WrittenText]:
    """The texts that models are writing in a run now, by the path of the step or item.

    Returns:
        Nothing if no process works on the run.
    """
    try:
        data = record.written.read_bytes()
    except OSError:
        return {}
    if holder_of(record) is None:  # its process was killed
        return {}
    try:
        return {
            str(step): WrittenText(str(end), int(characters), bool(is_data))
            for step, (end, characters, is_data) in json.loads(data).items()
        }
    except (ValueError, TypeError, AttributeError):  # something else wrote it
        return {}


def text_being_written(record: RunRecord) -> Mapping[str, str]:
    """The last characters of the texts that models are writing; see `texts_being_written`."""
    return {step: text.end for step, text in texts_being_written(record).items()}


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
        self._texts: dict[str, WrittenText] = {}
        self._due = 0.0
        self._exists = True  # perhaps
        self.close()

    def __call__(self, event: Event) -> None:
        step = str(event.data.get("step") or "")
        if event.kind == "model_text":
            self._texts[step] = self._texts.pop(step, NOTHING_YET) + event.data["text"]
            if len(self._texts) > MOST_STEPS:
                del self._texts[next(iter(self._texts))]
        elif event.kind not in OF_MODELS or self._texts.pop(step, None) is None:
            return
        if not self._texts:
            self.close()
        elif self._clock() >= self._due:
            self._write()

    def _write(self) -> None:
        self._due = self._clock() + PAUSE
        with contextlib.suppress(OSError):
            data = {step: astuple(text) for step, text in self._texts.items()}
            write_private(self._path, to_json(data), sync="none")
            self._exists = True

    def close(self) -> None:
        """Remove the file, if there is one."""
        self._texts.clear()
        if self._exists:
            with contextlib.suppress(OSError):
                self._path.unlink(missing_ok=True)
            self._exists = False
