"""The tools of the plans: each call is a line in ``calls.txt``."""

import json
import os
import signal
from pathlib import Path


def change(what: str) -> dict:
    """Change something."""
    if os.environ.get("DIE_AT") == what:
        os.kill(os.getpid(), signal.SIGKILL)
    with Path("calls.txt").open("a") as file:
        file.write(json.dumps(what) + "\n")
    if what == "fail":
        raise ValueError("told to fail")
    return {"changed": what, "filler": "x" * 1500}


def look(what: str) -> dict:
    """Look at something."""
    return {"seen": what}
