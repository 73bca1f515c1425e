"""The JSON or the text that a job or a script answers with."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any, Final

from fractale.evidence import as_mapping
from fractale.graph.call import Attempt
from fractale.jobs.log_metrics import LogParts
from fractale.models.json_text import whole_json
from fractale.plain import plain
from fractale.schedulers.job import JobHandle
from fractale.schedulers.wrapper import STDOUT

LOGS: Final = "jobs.job_logs"
OUTPUT: Final = "jobs.job_output"
"""The name of the call that reads another file than the log."""

MOST: Final = 8 * 1024 * 1024
"""The most bytes of an answer, as for an answer of an MCP server."""

MOST_OF_LOG: Final = 1024 * 1024
"""The most bytes of the end of a log in which JSON is searched."""


async def answer_of(
    attempt: Attempt, handle: JobHandle | None, log: LogParts
) -> tuple[dict[str, Any], list[str]]:
    """Read the answer of a job or a script that is over.

    Args:
        handle: None if it is unknown whether it was submitted.

    Returns:
        The outputs in it, and at most one fault.
    """
    job = attempt.step.job
    form = job.answer.form if job is not None and job.answer is not None else ""
    try:
        if attempt.step.kind == "script":
            path = handle.own_dir / STDOUT if handle else None
            text = await asyncio.to_thread(_read, path, missing="") if path else ""
            return _of_stdout(text, form), []
        if "outputs" in attempt.inputs:
            path = _file_of(attempt)
            return as_mapping(_parsed(await asyncio.to_thread(_read, path), f"`{path}`")), []
        text = await log.part(max(log.size - MOST_OF_LOG, 0), log.size)
        return as_mapping(last_json(text)), []
    except ValueError as error:
        return {}, [str(error)]


def _of_stdout(text: str, form: str) -> dict[str, Any]:
    """The outputs in a script's stdout.

    Raises:
        ValueError: It must be JSON, and is not.
    """
    if form == "json":
        return as_mapping(_parsed(text, "stdout"))
    if form != "text":
        try:
            return as_mapping(whole_json(text))
        except ValueError:
            pass
    return {"content": text}


def _file_of(attempt: Attempt) -> Path:
    """The file that the step names, as a path of this machine."""
    folder = str(attempt.inputs.get("folder") or "")
    file = str(attempt.inputs["outputs"]["file"]).strip()
    return attempt.context.start_dir / folder / file


def _read(path: Path, missing: str | None = None) -> str:
    """A whole file.

    Raises:
        ValueError: It cannot be read, or is too large.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MOST + 1)
    except FileNotFoundError:
        if missing is not None:
            return missing
        raise ValueError(f"the file of its outputs does not exist: `{path}`") from None
    except OSError as error:
        raise ValueError(f"the file of its outputs cannot be read: {error}") from error
    if len(data) > MOST:
        raise ValueError(
            f"`{path.name}` has more than {MOST // 1024 // 1024} MiB; write the data into a file, "
            "and its name into the outputs"
        )
    return data.decode("utf-8", errors="replace")


def _parsed(text: str, name: str) -> Any:
    if not text.strip():
        raise ValueError(f"{name} is empty, and must be JSON")
    try:
        return _finite(json.loads(text))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{name} is not JSON: {error}") from error


def _finite(value: Any) -> Any:
    """The value, all of whose numbers JSON can write.

    Raises:
        ValueError: One is NaN, infinite, or too long.
    """
    if plain(value) is not value:
        raise ValueError("it has a number that is not finite (NaN or infinite)")
    return value


def last_json(text: str) -> Any:
    """The last JSON object or array in a text that begins and ends with whole lines.

    Raises:
        ValueError: There is none, or it has a number that is not finite.
    """
    decoder, found, position = json.JSONDecoder(), list[Any](), 0
    while position < len(text):
        line_end = text.find("\n", position)
        line_end = len(text) if line_end < 0 else line_end
        if text[position] in "{[":
            try:
                value, end = decoder.raw_decode(text, position)
            except (ValueError, RecursionError):
                pass
            else:
                line_end = text.find("\n", end)
                line_end = len(text) if line_end < 0 else line_end
                if not text[end:line_end].strip():
                    found = [value]
        position = line_end + 1
    if not found:
        raise ValueError("its log has no JSON object or array that begins a line")
    try:
        return _finite(found[0])
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the last object or array of its log is not JSON: {error}") from error
