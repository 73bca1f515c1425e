"""Starting, resuming and forking runs: the one service behind every way to use fractale.

A reader's path: `Workspace.open` (`workspace`) opens what runs need. Its `Runs` (`service`) starts,
resumes or forks one; a run is a LangGraph thread with the run's id. Before anything runs,
`preflight` finds what would fail. A `RunDriver` (`driver`) then compiles the plan and invokes the
graph until it ends, waits, or reaches a limit; `answering` answers what it asks, and a
`RunReporter` (`reporter`) hears every event and makes the `RunResult` (`result`).

- `options`: how to run: listeners, the user to ask, limits, a checkpointer.
- `changes`: what changed since a run began: its plan, its tools, its software.
- `fork`: what a run knew before a step, and the record of the run that begins there.
- `one_step`: the plans of ``fractale agent`` and ``fractale prompt``.
- `ready`: which runs can be resumed since their jobs have ended.
- `cancelling`: ends the jobs of a run, and the run with them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fractale.runs.options import Person, RunOptions
    from fractale.runs.result import RunResult
    from fractale.runs.service import Runs
    from fractale.runs.workspace import Extensions, Workspace

__all__ = ["Extensions", "Person", "RunOptions", "RunResult", "Runs", "Workspace"]

_HOMES = {
    "Extensions": "fractale.runs.workspace",
    "Person": "fractale.runs.options",
    "RunOptions": "fractale.runs.options",
    "RunResult": "fractale.runs.result",
    "Runs": "fractale.runs.service",
    "Workspace": "fractale.runs.workspace",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: reading a run's record needs no engine."""
    if name not in _HOMES:
        raise AttributeError(f"module 'fractale.runs' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
