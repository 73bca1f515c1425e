"""How much of fractale one tool call passes: from the entry of its step to the wire and back.

A plan of one tool is run over stdio under `sys.setprofile`. The window begins when LangGraph calls
the node of the step and ends when that returns. Three numbers are counted in it:

- files of fractale that were entered, on the thread of the run, in whatever task. The file of the
  saver is left out: it may write the checkpoint before the step in that time;
- frames of fractale that were awaiting each other when the MCP library's
  ``ClientSession.send_request`` was called, over all tasks between the node and the wire;
- entries of functions of fractale. A coroutine that is resumed is not entered again.

Alone, it prints the frames and the files: ``python tests/bench/call_path.py``.
"""

from __future__ import annotations

import asyncio
import dis
import sys
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from types import CodeType, FrameType
from typing import Any

import commands
from inside import SERVE
from mcp import ClientSession
from measure import HERE, Row

import fractale
from fractale.mcp import McpToolbox
from fractale.runs import Runs
from fractale.settings import ServerSettings, Settings

OURS = f"{Path(fractale.__file__).parent}/"
PLAN = "name: bench\nsteps: [{name: one, tool: echo, inputs: {n: 1}}]\n"
MOST_FILES = 20
MOST_FRAMES = 11
SAVER = "store/sqlite_saver.py"
WIRE = ClientSession.send_request.__code__


@dataclass
class CallPath:
    """What was passed in the window of one step."""

    files: Counter[str] = field(default_factory=Counter[str])
    frames: list[str] = field(default_factory=list)
    _node: FrameType | None = None
    _task: Any = None
    _resumed: set[FrameType] = field(default_factory=set)
    _over: bool = False

    @property
    def entries(self) -> int:
        """Function entries."""
        return self.files.total()

    def hear(self, frame: FrameType, what: str, _value: Any) -> None:
        """The profile function."""
        if self._over or what not in ("call", "return"):
            return
        code = frame.f_code
        if what == "return":
            if frame is self._node and _has_ended(frame):
                self._over = True
            return
        if self._node is None:
            if not _is_node(frame):
                return
            self._node, self._task = frame, asyncio.current_task()
        if code is WIRE:
            self.frames = [*_awaiting(self._task), *_below(frame)]
        elif code.co_filename.startswith(OURS) and frame not in self._resumed:
            self._resumed.add(frame)  # kept, so that no other frame has its identity
            if (name := code.co_filename.removeprefix(OURS)) != SAVER:
                self.files[name] += 1


def _is_node(frame: FrameType) -> bool:
    """Whether LangGraph calls the node of a step."""
    code, caller = frame.f_code, frame.f_back
    return (
        code.co_name == "__call__"
        and code.co_filename.startswith(f"{OURS}graph/")
        and caller is not None
        and "langgraph" in caller.f_code.co_filename
    )


def _has_ended(frame: FrameType) -> bool:
    """Whether a coroutine returns, rather than waits."""
    return dis.opname[frame.f_code.co_code[frame.f_lasti]].startswith("RETURN")


def _awaiting(task: Any) -> list[str]:
    """Our frames that the task of the step is suspended in, the outermost first."""
    if task is asyncio.current_task():
        return []
    found: list[str] = []
    coroutine = task.get_coro()
    while coroutine is not None:
        frame = getattr(coroutine, "cr_frame", None) or getattr(coroutine, "gi_frame", None)
        if frame is not None and frame.f_code.co_filename.startswith(OURS):
            found.append(_name(frame.f_code))
        coroutine = getattr(coroutine, "cr_await", None) or getattr(coroutine, "gi_yieldfrom", None)
    return found


def _below(frame: FrameType) -> list[str]:
    """Our frames on the stack of a frame, the outermost first."""
    found: list[str] = []
    below = frame.f_back
    while below is not None:
        if below.f_code.co_filename.startswith(OURS):
            found.insert(0, _name(below.f_code))
        below = below.f_back
    return found


def _name(code: CodeType) -> str:
    return f"{code.co_filename.removeprefix(OURS)}: {code.co_qualname}"


async def measure_call() -> CallPath:
    """Run a plan of one tool twice, and look at the second run."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        commands.write_files(folder)
        server = ServerSettings(
            name="bench",
            transport="stdio",
            command=sys.executable,
            args=tuple(SERVE),
            env={"PYTHONPATH": str(HERE)},
            cwd=str(folder),
        )
        plan = fractale.load(PLAN)
        async with McpToolbox([server]) as toolbox:
            runs = Runs(replace(Settings(), state_dir=folder / "state"), toolbox)
            await runs.start(plan, {})
            path, before = CallPath(), sys.getprofile()
            sys.setprofile(path.hear)
            try:
                result = await runs.start(plan, {})
            finally:
                sys.setprofile(before)
            if result.status != "success" or not path.frames:
                raise RuntimeError(f"the call was not seen: {result}")
            return path


def path_rows() -> list[Row]:
    """The files and the frames of one tool call, each against what it may be."""
    path = asyncio.run(measure_call())
    files, frames = len(path.files), len(path.frames)
    return [
        Row(
            "one tool call: files of fractale that it passes",
            f"{files} files, {path.entries} entries of functions",
            f"at most {MOST_FILES}",
            files / MOST_FILES,
            1,
        ),
        Row(
            "one tool call: frames of fractale at the wire",
            f"{frames} frames",
            f"at most {MOST_FRAMES}",
            frames / MOST_FRAMES,
            1,
        ),
    ]


def main() -> int:
    """Print the frames and the files; returns 1 if there are more than there may be."""
    seen = asyncio.run(measure_call())
    print(f"{len(seen.frames)} frames at the wire:")
    print(*(f"  {frame}" for frame in seen.frames), sep="\n")
    print(f"{seen.entries} entries of functions in {len(seen.files)} files:")
    for file, times in sorted(seen.files.items()):
        print(f"  {times:4} {file}")
    return 1 if len(seen.files) > MOST_FILES or len(seen.frames) > MOST_FRAMES else 0


if __name__ == "__main__":
    sys.exit(main())
