"""The tools and the sub-agent of `made_runs`; it is copied into the folder of the runs."""

from __future__ import annotations

import struct
import time
import zlib
from pathlib import Path
from typing import Any

from fastmcp.utilities.types import Image

from fractale.agents.subagent import AgentAnswer, Subagent

SVG = (
    b"<svg xmlns='http://www.w3.org/2000/svg' onload='document.title=1'>"
    b"<script>document.title=1</script></svg>"
)


def look(text: str = "all is well") -> dict:
    """Look at something."""
    return {"seen": text, "words": len(text.split())}


def write(path: str, text: str) -> dict:
    """Write a file."""
    Path(path).write_text(text)
    return {"path": path, "lines": text.count("\n") + 1}


def test_node(node: int) -> dict:
    """Test a node; every third one is broken."""
    if node % 3 == 2:
        raise ValueError(f"node n{node} does not answer: no route to host")
    return {"node": f"n{node}", "seconds": 0.25 * node}


def check(text: str) -> dict:
    """Check a script."""
    if "-c8" in text:
        return {"valid": False, "returncode": 1, "error": "unknown directive -c8 (line 4)"}
    return {"valid": True, "returncode": 0, "error": None}


def hold(gate: str) -> dict:
    """Wait until a file is there."""
    Path(f"held-{gate}").touch()
    until = time.monotonic() + 120
    while not Path(f"go-{gate}").exists():
        if time.monotonic() > until:
            raise TimeoutError("the gate was never opened")
        time.sleep(0.01)
    return {"opened": gate}


def _png(width: int, height: int, color: tuple[int, int, int]) -> bytes:
    """A picture of one color."""

    def part(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = (b"\0" + bytes(color) * width) * height
    parts = [part(b"IHDR", head), part(b"IDAT", zlib.compress(rows)), part(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def plot():
    """Draw the melt."""
    return [Image(data=_png(120, 60, (40, 120, 90)), format="png"), "the melt at step 8000"]


def harm():
    """Draw what is more than a picture, and what is none."""
    return [Image(data=SVG, format="svg+xml"), Image(data=SVG, format="png")]


async def tune(host: Any, request: Any) -> AgentAnswer:
    """Show trials as a table."""
    rows = [
        {"skin": round(0.1 * i, 1), "ranks": 2 ** (i % 4), "seconds": round(40 / i + i, 3)}
        for i in range(1, 9)
    ]
    host.show("Trials of `melt`", rows)
    host.warn("noisy", "two trials of the same values differ by 4 %")
    return AgentAnswer(outputs={"best": rows[5]})


TUNE = Subagent(name="tune", description="Tries values.", run=tune)
