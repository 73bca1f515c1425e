"""Pictures of pages, compared with what they were; FRACTALE_SNAPSHOTS=write renews them.

A picture is kept small and grey: it shows how a page is laid out and what is dark or light in it,
not the edges of letters. Other fonts break lines elsewhere, so a picture names the fonts of the
machine that it was made on, and is compared on machines with the same ones.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from PIL import Image, PngImagePlugin
from PIL.Image import Resampling

from snapshot import FOLDER

SCALE = 4
"""Pixels of a page for one pixel of a kept picture, each way."""
DIFFERENT = 48
"""How much lighter or darker, of 255, a pixel of a kept picture is if it differs."""
MOST_DIFFERENT = 0.002
"""The part of a picture that may differ: a date, a version, the way a line is smoothed."""


def fonts() -> str:
    """The fonts that pages of this machine have."""
    families = ("system-ui", "sans-serif", "monospace")
    return ", ".join(
        subprocess.run(
            ["fc-match", each], capture_output=True, text=True, check=True
        ).stdout.strip()
        for each in families
    )


def small(shot: Path) -> Image.Image:
    """A screenshot, grey, and each way a quarter as large."""
    picture = Image.open(shot).convert("L")
    size = max(1, picture.width // SCALE), max(1, picture.height // SCALE)
    return picture.resize(size, Resampling.BOX)


def assert_looks_as_before(name: str, shot: Path) -> None:
    """Compare a screenshot with ``snapshots/pictures/NAME.png``."""
    path, here = FOLDER / "pictures" / f"{name}.png", fonts()
    now = small(shot)
    if os.environ.get("FRACTALE_SNAPSHOTS") == "write":
        about = PngImagePlugin.PngInfo()
        about.add_text("fonts", here)
        path.parent.mkdir(exist_ok=True)
        now.save(path, pnginfo=about, optimize=True)
    before = Image.open(path)
    if before.info.get("fonts") != here:
        pytest.skip(f"the picture {name} was made with other fonts: {before.info.get('fonts')}")
    assert now.size == before.size, f"{name} was {before.size} and is {now.size}: see {shot}"
    part = part_different(before, now)
    assert part <= MOST_DIFFERENT, f"{part:.1%} of {name} looks different: see {shot}"


def part_different(one: Image.Image, other: Image.Image) -> float:
    """The part of two pictures of one size that looks different."""
    pairs = zip(one.tobytes(), other.tobytes(), strict=True)
    return sum(abs(a - b) > DIFFERENT for a, b in pairs) / (one.width * one.height)
