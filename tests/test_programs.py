"""Programs that are run with a limit: real ones, on this machine."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from fractale.programs import ProgramResult, run_with_limit


async def run(script: str, seconds: float = 60.0, most_bytes: int = 1000) -> ProgramResult:
    words = ["/bin/sh", "-c", script]
    return await run_with_limit(
        words, environment=os.environ, seconds=seconds, most_bytes=most_bytes
    )


def is_running(file: Path) -> bool:
    """Whether the process whose number a file has runs."""
    try:
        state = Path(f"/proc/{file.read_text().strip()}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state.rpartition(")")[2].split()[0] != "Z"


async def gone(file: Path) -> bool:
    for _ in range(200):
        if not is_running(file):
            return True
        await asyncio.sleep(0.05)
    return False


async def test_its_exit_code_and_its_outputs() -> None:
    ran = await run("echo one; echo two >&2; exit 3")
    assert (ran.code, ran.out, ran.err, ran.complaint) == (3, "one\n", "two\n", "two")


async def test_the_beginning_of_an_output_is_kept_and_all_of_it_read() -> None:
    ran = await run("yes | head -c 300000; echo end >&2")
    assert (ran.code, len(ran.out), ran.err) == (0, 1000, "end\n")


async def test_it_has_no_input() -> None:
    assert (await run("cat")).out == ""


async def test_what_cannot_be_started() -> None:
    with pytest.raises(OSError, match="no-such-program"):
        await run_with_limit(["/no-such-program"], environment={}, seconds=5)


async def test_at_its_limit_it_is_killed_with_what_it_started(tmp_path: Path) -> None:
    child = tmp_path / "child"
    with pytest.raises(TimeoutError):
        await run(f"sleep 600 & echo $! > {child}; wait", seconds=1.0)
    assert await gone(child)


async def test_a_call_that_is_cancelled_ends_it(tmp_path: Path) -> None:
    child = tmp_path / "child"
    task = asyncio.create_task(run(f"echo $$ > {child}; exec sleep 600"))
    for _ in range(500):
        if child.exists() and child.read_text():
            break
        await asyncio.sleep(0.02)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await gone(child)


async def test_a_process_that_left_the_session_is_not_waited_for(tmp_path: Path) -> None:
    child = tmp_path / "child"
    script = f"setsid sh -c 'echo $$ > {child}; exec sleep 60' & wait"
    with pytest.raises(TimeoutError):
        await run(script, seconds=1.0)
    os.kill(int(child.read_text()), 9)
