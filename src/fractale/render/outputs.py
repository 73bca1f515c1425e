"""The outputs of a run for another program: the values themselves, not a text about them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import IO, Any, Final

from fractale.errors import UsageError
from fractale.plain import plain, readable, to_json
from fractale.plan.dump import dump_data
from fractale.render.questions import exact
from fractale.render.text import writable
from fractale.text import did_you_mean, listing

NO_WIDTH: Final = 2**31
"""Columns of a line of YAML, so that each line of a text stays one line."""


def check_output(name: str | None, known: Iterable[str], owner: str) -> None:
    """Check that there is an output of this name.

    Args:
        name: The name; None if no single output was named.
        known: The names of the outputs.
        owner: What has them, for the message: ``plan `hello```.

    Raises:
        UsageError: The output was not found.
    """
    names = list(known)
    if name is None or name in names:
        return
    there = f"its outputs: {listing(names)}" if names else "it declares no `outputs`"
    message = f"{owner} has no output `{name}`"
    raise UsageError(message, hint=did_you_mean(name, names, otherwise=there))


def outputs_text(outputs: Mapping[str, Any], name: str | None = None) -> str:
    """Outputs as text that ends with the end of a line; empty if there are none.

    A single text is written as it is, any other single value as one line of JSON, and several
    outputs as YAML.

    Args:
        name: The output to write; None: all of them.
    """
    if name is not None:
        outputs = {name: outputs[name]}
    if not outputs:
        return ""
    if len(outputs) > 1:
        return dump_data(plain(dict(outputs)), width=NO_WIDTH)
    (value,) = outputs.values()
    text = value if isinstance(value, str) else to_json(value, default=str)
    return text if text.endswith("\n") else f"{text}\n"


def outputs_bytes(text: str) -> bytes:
    """A text of outputs in UTF-8. A byte of a file name that is not UTF-8 is written as it was."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return readable(text).encode()


def write_outputs(text: str, stream: IO[str]) -> None:
    """Write a text of outputs. A terminal gets its control characters escaped.

    Raises:
        BrokenPipeError: The reader is gone.
        OSError: The text cannot be written.
    """
    stream.flush()
    if stream.isatty():
        stream.write(writable(exact(text), getattr(stream, "encoding", None)))
        stream.flush()
        return
    try:
        number = stream.fileno()
    except OSError:  # not a real file, as under a test runner
        stream.write(readable(text))
        return
    # Without a buffer, whose rest Python would write again at its end, after an error.
    left = memoryview(outputs_bytes(text))
    while left:
        left = left[os.write(number, left) :]
