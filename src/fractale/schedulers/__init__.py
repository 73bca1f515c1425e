"""Schedulers, one package each: facts about PBS are only in `fractale.schedulers.pbs`.

`slurm`, `flux`, `pbs` and `lsf` are schedulers; `local` runs jobs as processes of this machine;
`cobalt` only has scripts to read. Code outside `schedulers` asks a package through the modules
below; `homes` finds the packages and is the only one that imports them. A package has

- `SCHEDULER` in its ``__init__``, a `Declaration`: the facts that are needed without the rest.
- `directives`: `DIALECT` reads the options of a script into a `Request`, and writes them from one.
  Its helpers are `values` and `mixed` (Slurm), `resources` (PBS), `requirements` (LSF).
- `environment`: `ENVIRONMENT` has the launchers, programs and variables for a script's commands.
- `times`: time limits as the scheduler writes them; `longest`, from a limit to the kill.
- `jobs`: `ADAPTER` submits, finds, reports, cancels and lists queues. `NOTICES` and `NOISE` are
  signs of an end in a job's output. `AFTER` starts a command after a job. Its helpers are `side`
  (Flux), `queue` and `supervisor` (local).
- `site`: `probe` looks whether the scheduler answers, for its queues and its nodes.
- `validator`, if the scheduler can check a script without submitting it: `ask`.

Scripts:

- `script`, `request`: a parsed script, and its request in terms independent of the scheduler.
- `dialects`: finds the scheduler of a script, and parses the script.
- `reading`, `options`: shared by the readers and writers of directives.
- `facts`: the request of a script as JSON, and claims about it checked against its lines.
- `translation`: translates a script for another scheduler. `body` translates its commands, and
  `launch` its launchers. `shell_text` finds the parts of a shell script's text.
- `comparison`: compares the requests of two scripts; `commands` compares their commands.
- `validation`: whether a scheduler would accept a script; `shell`: whether its shell would.

Jobs:

- `adapter`: the interface of every scheduler; `job`, `asked`: a job, and its complete request.
- `folder`, `wrapper`, `header`, `positions`: the job's directory, the script that the scheduler
  starts, its directives, and the indices of its array.
- `ends`, `programs`, `notation`: ends, programs with a time limit, amounts and names as written.

To add a scheduler, write its package, and nothing else: see ``CONTRIBUTING.md``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Declaration:
    """The facts about a scheduler that are needed without its modules: `SCHEDULER` in its package.

    Args:
        title: Its name for people.
        scripts: Whether fractale writes its scripts (and reads them), only reads them, or neither.
            Scripts need the modules `directives` and `environment`.
        jobs: Whether it runs jobs. Jobs need the modules `jobs` and `times`, and `site` unless the
            scheduler is always there.
        rank: Of several schedulers that answer, the one with the lowest rank gets the jobs that
            name none.
        aliases: Other words by which people, scripts and models name it.
        job_variable: The variable that has a job's id inside the job.
        variables: Globs of its environment variables, which started MCP servers get as well.
        found_by: Variables that decide whether it answers, beside ``PATH`` and `job_variable`.
    """

    title: str
    scripts: Literal["written", "read", "none"] = "written"
    jobs: bool = True
    rank: int = 50
    aliases: tuple[str, ...] = ()
    job_variable: str = ""
    variables: tuple[str, ...] = ()
    found_by: tuple[str, ...] = ()
