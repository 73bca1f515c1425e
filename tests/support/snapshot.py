"""Texts that people see, compared with what they were; FRACTALE_SNAPSHOTS=write renews them."""

from __future__ import annotations

import os
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "snapshots"


def assert_same(name: str, text: str) -> None:
    """Compare a text with ``snapshots/NAME.txt``."""
    path = FOLDER / f"{name}.txt"
    if os.environ.get("FRACTALE_SNAPSHOTS") == "write":
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")
