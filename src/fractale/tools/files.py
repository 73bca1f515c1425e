"""Read and write text files, except the paths that `fractale.paths` forbids."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from fractale.paths import open_file, takes_paths

MAX_BYTES = 4 * 1024 * 1024


@takes_paths("path")
def read_text_file(path: str) -> dict[str, Any]:
    """Read a text file.

    Args:
        path: The file, absolute or relative to the working directory; at most 4 MiB of UTF-8.

    Returns:
        ``text``, and ``lines``, the number of lines.

    Raises:
        ValueError: The file does not exist, is too large, or is not text.
        PermissionError: The file is private, such as a key, or cannot be read.
    """
    try:
        descriptor = open_file(path)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise ValueError(f"file {path} not found (working directory: {Path.cwd()})") from error
    with os.fdopen(descriptor, "rb") as opened:
        data = opened.read(MAX_BYTES + 1)
        if (size := max(len(data), os.fstat(descriptor).st_size)) > MAX_BYTES:
            raise ValueError(f"{path} has {size} bytes; at most {MAX_BYTES} are read")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text (byte {error.start})") from error
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return {"text": text, "lines": len(text.splitlines())}


@takes_paths(writes=["path"])
def write_text_file(path: str, text: str) -> dict[str, Any]:
    """Write a text file. Creates missing parent directories, and replaces an existing file.

    Args:
        path: The file, absolute or relative to the working directory.
        text: The file's new text.

    Returns:
        ``path``, and ``lines``, the number of lines.

    Raises:
        ValueError: The path is a directory, or the text is not Unicode.
        PermissionError: The file is private, such as a key, decides what is run later, or cannot be
            written.
        OSError: The file cannot be written.
    """
    file = Path(path).expanduser()
    if file.is_dir():
        raise ValueError(f"{path} is a directory")
    try:
        data = text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        cut = ascii(error.object[error.start : error.end])
        raise ValueError(f"the text for {path} has {cut}, which is half a character") from error
    with os.fdopen(open_file(path, writing=True), "wb") as opened:
        opened.truncate()
        opened.write(data)
    return {"path": str(file), "lines": len(text.splitlines())}
