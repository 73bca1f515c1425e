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

from typing import TYPE_CHECKING

from fractale.lazy import lazy

if TYPE_CHECKING:
    from fractale.runs.options import Person as Person
    from fractale.runs.options import RunOptions as RunOptions
    from fractale.runs.result import RunResult as RunResult
    from fractale.runs.service import Runs as Runs
    from fractale.runs.workspace import Extensions as Extensions
    from fractale.runs.workspace import Workspace as Workspace

__getattr__, __all__ = lazy(
    __name__,
    {
        "fractale.runs.options": ("Person", "RunOptions"),
        "fractale.runs.result": ("RunResult",),
        "fractale.runs.service": ("Runs",),
        "fractale.runs.workspace": ("Extensions", "Workspace"),
    },
)
