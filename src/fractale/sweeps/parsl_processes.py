"""Parsl's own processes, the interchange and the worker pools, which end when they are of no use.

The interchange is on the driver's machine and hands tasks to the pools. Parsl's keeps running if
its driver is killed, and would hold the blocks until their walltime. This one ends, so that the
pools miss its heartbeat and end, too.

A pool is on a node and hands tasks to its workers. Parsl's pool keeps its heartbeat if the process
with its shared tables is killed, but performs nothing any more. This one ends.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import sys
import threading
import time
from multiprocessing.process import BaseProcess
from typing import Final

INTERCHANGE: Final = "parsl.executors.high_throughput.interchange"
POOL: Final = "parsl.executors.high_throughput.process_worker_pool"
TABLES: Final = "SyncManager"
"""The beginning of the name of the process with a pool's shared tables."""

GLANCE: Final = 0.5
"""Seconds between two checks whether the other process is alive."""


def interchange_command(driver: int) -> list[str]:
    """The command that starts the interchange.

    Args:
        driver: The driver's process id.
    """
    return [sys.executable, "-P", "-m", __name__, "interchange", str(driver)]


def pool_command(python: str) -> str:
    """The words that start a pool, in place of ``process_worker_pool.py``."""
    return f"{python} -P -m {__name__} pool"


def main(kind: str, *words: str) -> None:
    """Run one of the two, until it ends or is alone."""
    if kind == "interchange":
        # Ctrl-C at a terminal reaches the whole process group; only the driver decides about it.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        threading.Thread(target=_watch_driver, args=words, daemon=True).start()
        module, sys.argv = INTERCHANGE, [INTERCHANGE]
    else:
        threading.Thread(target=_watch_tables, daemon=True).start()
        module, sys.argv = POOL, [POOL, *words]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _watch_driver(driver: str) -> None:
    while os.getppid() == int(driver):
        time.sleep(GLANCE)
    os._exit(1)


def _watch_tables() -> None:
    tables: BaseProcess | None = None
    while True:
        time.sleep(GLANCE)
        children = multiprocessing.active_children()
        tables = tables or next((c for c in children if c.name.startswith(TABLES)), None)
        if tables is not None and not tables.is_alive() and threading.main_thread().is_alive():
            for child in children:
                child.kill()
            print(f"{TABLES} has ended", file=sys.stderr, flush=True)  # noqa: T201 - the block's log
            os._exit(1)


if __name__ == "__main__":
    main(*sys.argv[1:])
