"""What a run costs the disk: a large text, and many runs at once on a network file system."""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from measure import Row

import fractale as library
from fractale.runs import RunOptions, Runs
from fractale.settings import Settings
from fractale.store.checkpoints import open_checkpoints
from fractale.testing import FakeToolServer

LARGE = 100_000_000 if os.environ.get("SCALE") == "full" else 10_000_000
"""Bytes of the text."""
AT_ONCE = 16
PLAN = """
name: large
steps:
  - {name: read, tool: read}
  - {name: use, tool: use, inputs: {text: "{{ steps.read.outputs.content }}"}}
outputs: {text: "{{ steps.read.outputs.content }}"}
"""
SHORT = "name: short\nsteps: [{name: one, tool: use, inputs: {text: x}}]\n"


async def disk_rows() -> list[Row]:
    """Bytes of a text that a tool returns and a step uses, and runs that end on faked NFS."""
    with TemporaryDirectory() as name:
        settings = replace(Settings(), state_dir=Path(name) / ".fractale")
        result = await Runs(settings, _server()).start(library.load(PLAN), {})
        assert result.ok, result.error
        large = _bytes(settings.state_dir)
    with TemporaryDirectory() as name:
        ended = await _on_nfs(replace(Settings(), state_dir=Path(name) / ".fractale"))
    return [
        Row(
            f"a text of {LARGE // 1_000_000} MB that two steps use: bytes on the disk",
            f"{large:,} B",
            f"the text: {LARGE:,} B",
            large / LARGE,
            1.3,
        ),
        Row(
            f"{AT_ONCE} runs at once in a directory on NFS (faked): runs that fail",
            f"{ended} of {AT_ONCE} end",
            f"all {AT_ONCE}",
            AT_ONCE - ended,
            0,
        ),
    ]


def _server() -> FakeToolServer:
    server = FakeToolServer()

    @server.tool
    def read() -> str:
        return ("0123456789 a line\n" * (LARGE // 18 + 1))[:LARGE]

    @server.tool
    def use(text: str) -> dict[str, Any]:
        return {"size": len(text)}

    return server


def _bytes(folder: Path) -> int:
    """The bytes of all files; a file with several names counts once."""
    return sum(
        {f.stat().st_ino: f.stat().st_size for f in folder.rglob("*") if f.is_file()}.values()
    )


async def _on_nfs(settings: Settings) -> int:
    """How many runs succeed that are in progress together, each as in a process of its own."""
    state = settings.state_dir
    mounts = f"22 1 8:1 / / rw - ext4 /dev/sda1 rw\n23 22 0:41 / {state} rw - nfs4 server:/e rw\n"
    plan, together = library.load(SHORT), asyncio.Barrier(AT_ONCE)

    async def run(name: str) -> bool:
        async with open_checkpoints(state, mountinfo=mounts) as saver:
            await saver.open_run(name)
            await together.wait()
            options = RunOptions(run_id=name, checkpointer=saver)
            return (await Runs(settings, _server()).start(plan, {}, options)).ok

    runs = [run(f"r{number}") for number in range(AT_ONCE)]
    return sum(each is True for each in await asyncio.gather(*runs, return_exceptions=True))
