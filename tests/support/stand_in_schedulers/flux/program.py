"""A stand-in for the program `flux` of a site: its own bindings, and what it lists of queues.

python program.py WORD ARGUMENT...
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

QUEUES = "debug*|30m|1h|0-4|0-32|0-8\nbatch|inf|inf|0-4|0-32|0-8"
NODES = (
    "debug,batch|free|1|8|2|corona1\n"
    "debug,batch|allocated|3|24|6|corona[2-4]\n"
    "debug,batch|down|0|0|0|"
)
STATUS = (
    "debug: Job submission is enabled\ndebug: Scheduling is started\n"
    "batch: Job submission is enabled\nbatch: Scheduling is stopped"
)


def main(words: list[str]) -> None:
    if os.environ.get("FAKE_FLUX") == "none":
        sys.exit(f"flux: `{words[0]}' is not a flux command.  See 'flux --help'")
    if words[0] == "python":
        if os.environ.get("FAKE_FLUX") == "without python":
            sys.exit("flux: `python' is not a flux command.  See 'flux --help'")
        # Bindings that fit, whatever PYTHONPATH has; the variables are the program's own.
        here = str(Path(__file__).parent.parent)
        environment = {**os.environ, "PYTHONPATH": here, "FAKE_BINDINGS": "the site's"}
        os.execve(sys.executable, [sys.executable, *words[1:]], environment)
    answers = {("queue", "list"): QUEUES, ("resource", "list"): NODES, ("queue", "status"): STATUS}
    found = answers.get(tuple(words[:2]))
    if found is None:
        sys.exit(1)
    print(found)


main(sys.argv[1:])
