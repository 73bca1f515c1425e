"""Starting runs and going on with them: the one service behind every way to use fractale.

The command line, the functions of ``import fractale`` and the tests all come through here. A
`Runs` belongs to one state folder; each run is a LangGraph thread with the run's id.

- `options`: how to run: listeners, a person to ask, limits, a checkpointer.
- `preflight`: what would fail before anything is run.
- `service`: `Runs`, which starts and resumes.
- `session`: one process's work on one run.
- `result`: how it ended.
- `opening`: tools, registries and servers, opened together for a run.
"""

from fractale.runs.options import Person, RunOptions
from fractale.runs.result import RunResult
from fractale.runs.service import Runs

__all__ = ["Person", "RunOptions", "RunResult", "Runs"]
