"""Parsl's interchange as a process that ends with the driver that started it.

The interchange hands tasks to workers. Parsl's own keeps running if its driver is killed, and would
hold the workers' blocks until their walltime. This one ends, so that the workers miss it and end,
too.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
import threading
import time
from typing import Final

INTERCHANGE: Final = "parsl.executors.high_throughput.interchange"
GLANCE: Final = 0.5
"""Seconds between two checks whether the driver is alive."""


def command(driver: int) -> list[str]:
    """The command that starts it.

    Args:
        driver: The driver's process id.
    """
    return [sys.executable, "-P", "-m", __name__, str(driver)]


def main(driver: int) -> None:
    """Run the interchange until the driver, its parent process, ends it or is gone."""
    # Ctrl-C at a terminal reaches the whole process group; only the driver decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_watch, args=(driver,), daemon=True).start()
    sys.argv = [INTERCHANGE]
    runpy.run_module(INTERCHANGE, run_name="__main__", alter_sys=True)


def _watch(driver: int) -> None:
    while os.getppid() == driver:
        time.sleep(GLANCE)
    os._exit(1)


if __name__ == "__main__":
    main(int(sys.argv[1]))
