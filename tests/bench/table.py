"""``make bench``: the table of what fractale costs, as ratios measured in one run."""

from __future__ import annotations

import asyncio
import os
import platform
import sys
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

import call_path
import commands
import disk
import five_steps
import inside
import lasting
import looking
import scale
import sweeps
from measure import Row


def main() -> int:
    """Print the table; returns 1 if a row is over its limit."""
    packages = ("fractale", "langgraph", "langchain-core", "mcp", "fastmcp")
    print(f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    print(", ".join(f"{name} {version(name)}" for name in packages), end="\n\n")
    print(f"{'what':<52} {'ratio':>6} {'limit':>6}      measured, against (median, low-high)")
    rows = list(measure())
    failed = [row for row in rows if not row.ok]
    bound = [row for row in rows if row.limit is not None]
    print(f"\n{len(bound) - len(failed)} of {len(bound)} rows within their limits")
    return 1 if failed else 0


def measure():
    """Every row, printed as soon as it is known."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        commands.write_files(folder)
        yield show(commands.help_row(folder))
        yield show(commands.completion_row(folder))
        yield show(commands.validate_row(folder))
        if commands.PEER.is_dir():
            for row in commands.run_rows(folder):
                yield show(row)
        else:
            print("0.1.0 is not installed (`make bench` does it): its two rows are left out")
        yield show(asyncio.run(inside.step_row(folder)))
    for rows in (
        call_path.path_rows,
        lambda: asyncio.run(five_steps.five_step_rows()),
        lambda: asyncio.run(inside.growth_rows()),
        lambda: asyncio.run(inside.loop_rows()),
        lambda: [asyncio.run(inside.foreach_row())],
        lambda: asyncio.run(lasting.durability_rows()),
        lambda: asyncio.run(disk.disk_rows()),
        lasting.runs_rows,
        lambda: [asyncio.run(lasting.show_row())],
        looking.looking_rows,
        scale.scale_rows,
        sweeps.sweep_rows,
    ):
        yield from map(show, rows())


def show(row: Row) -> Row:
    """Print one row."""
    mark = "ok  " if row.ok else "OVER"
    limit = f"{row.limit:>6.2f}" if row.limit is not None else f"{'told':>6}"
    figures = f"{row.ratio:>6.2f} {limit}"
    print(f"{row.what:<52} {figures} {mark} {row.ours}; {row.peer}", flush=True)
    return row


if __name__ == "__main__":
    sys.exit(main())
