"""Read and write text files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

MAX_BYTES = 4 * 1024 * 1024


def read_text_file(path: str) -> dict[str, Any]:
    """Read a text file.

    Args:
        path: The file, absolute or from the working folder; at most 4 MiB of UTF-8.

    Returns:
        ``text`` and ``lines`` (how many).

    Raises:
        ValueError: There is no such file, it is too large, or it is not text.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise ValueError(f"there is no file {path} (working folder: {Path.cwd()})")
    if (size := file.stat().st_size) > MAX_BYTES:
        raise ValueError(f"{path} has {size} bytes; at most {MAX_BYTES} are read")
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text (byte {error.start})") from error
    return {"text": text, "lines": len(text.splitlines())}


def write_text_file(path: str, text: str) -> dict[str, Any]:
    """Write a text file; the folders above it are made, a file that is there is replaced.

    Args:
        path: The file, absolute or from the working folder.
        text: What it is to hold.

    Returns:
        ``path`` and ``lines`` (how many).

    Raises:
        ValueError: The path is a folder, or the text is not Unicode.
        OSError: The file cannot be written.
    """
    file = Path(path).expanduser()
    if file.is_dir():
        raise ValueError(f"{path} is a folder")
    try:
        data = text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        cut = ascii(error.object[error.start : error.end])
        raise ValueError(f"the text for {path} holds {cut}, which is half a character") from error
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)
    return {"path": str(file), "lines": len(text.splitlines())}
