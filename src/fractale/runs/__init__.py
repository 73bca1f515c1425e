"""Starting runs and going on with them: the one service behind every way to use fractale.

The command line, the functions of ``import fractale`` and the tests all come through here. A
`Runs` belongs to one state folder; each run is a LangGraph thread with the run's id.

- `options`: how to run: listeners, a person to ask, limits, a checkpointer.
- `preflight`: what would fail before anything is run.
- `service`: `Runs`, which starts, resumes and forks.
- `continuing`: whether a run can go on as it was begun; `changes`: what changed in its plan.
- `fork`: what a run knew before a step; `forking`: the folder of the run that begins there.
- `session`: one process's work on one run; `account`: what it tells of it; `budget`: what the run
  may use and has used.
- `jobs`: the batch jobs of a run; `jobs_told`: what its events told of them; `ready`: which runs
  can go on since theirs have ended; `cancelling`: ends the jobs of a run, and the run with them.
- `pruning`: removes runs with what is kept beside them.
- `result`: how it ended.
- `opening`: tools, registries and servers, opened together for a run.

What was done is done again without calls:

- `replay`: the same graph with the outside as the record has it (`replay_outside`, `replay_calls`),
  held against the record (`replay_events`, `replay_compare`, `replay_words`).
- `offered`: what the outside offered to a run. `recordings`: runs to be replayed elsewhere;
  `replay_folder`: a folder of them, as tests.

What was done is read without an engine:

- `history`: what happened in a run, from its folder; `history_reader` and `history_values` read it.
- `plans`: the plan of a run, kept beside its record; `provenance`: versions and tools' schemas.
- `listing`: the list of runs; `diff`: two runs side by side.
- `export`: a run as a graph (`export_graph`) and as transitions, for research; `crate`: as an
  RO-Crate, of the entities of `crate_entities`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fractale.lazy import lazy

if TYPE_CHECKING:
    from fractale.runs.options import Person as Person
    from fractale.runs.options import RunOptions as RunOptions
    from fractale.runs.result import RunResult as RunResult
    from fractale.runs.service import Runs as Runs

__getattr__, __all__ = lazy(
    __name__,
    {
        "fractale.runs.options": ("Person", "RunOptions"),
        "fractale.runs.result": ("RunResult",),
        "fractale.runs.service": ("Runs",),
    },
)
