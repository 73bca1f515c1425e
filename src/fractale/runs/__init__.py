"""Starting, resuming and forking runs: the one service behind every way to use fractale.

To follow a run, read the modules in this order:

1. `workspace`: `Workspace.open` opens the tools and agents that runs need.
2. `service`: `Runs` starts, resumes or forks a run. A run is a LangGraph thread with the run's id.
3. `preflight` finds errors before anything runs.
4. `driver`: a `RunDriver` compiles the plan and runs the graph until it ends, waits, or reaches a
   limit. At an end it runs the plan's `handlers`.
5. `rounds` invokes the graph, and again with the answers to its questions.
6. `answering` answers the questions of the run.
7. `reporter`: a `RunReporter` receives every event and makes the `RunResult` (`result`).

The other modules:

- `invocation`: one call of a function of `fractale.api`, from its keywords to a result.
- `listener`: the caller's function that receives the events, async or not.
- `agreement`: whether the user has agreed to a plan.
- `options`: how to run: listeners, the user to ask, limits, a checkpointer.
- `changes`: the changes since a run began: its plan, its tools, its software.
- `fork`: the values of a run before a step, and the record of the run that begins there.
- `one_step`: the plans of ``fractale agent`` and ``fractale prompt``.
- `ready`: the runs that can be resumed since their jobs have ended.
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
else:  # not for type checkers: they would accept any name
    __getattr__, __dir__, __all__ = lazy(
        __name__,
        {
            "fractale.runs.options": ("Person", "RunOptions"),
            "fractale.runs.result": ("RunResult",),
            "fractale.runs.service": ("Runs",),
            "fractale.runs.workspace": ("Extensions", "Workspace"),
        },
    )
