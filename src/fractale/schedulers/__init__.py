"""Schedulers, one package each: facts about PBS are only in `fractale.schedulers.pbs`.

`slurm`, `flux`, `pbs` and `lsf` are schedulers; `local` runs jobs as processes of this machine;
`cobalt` only has scripts to read. Code outside `schedulers` asks a package through the modules
below; `homes` is the only one that imports a package by its name. A package has

- `directives`: `DIALECT` reads the options of a script into a `Request`, and writes them from one.
  Its helpers are `values` and `mixed` (Slurm), `resources` (PBS), `requirements` (LSF).
- `environment`: `ENVIRONMENT` has the launchers, programs and variables for a script's commands.
- `times`: time limits as the scheduler writes them; `longest`, from a limit to the kill.
- `jobs`: `ADAPTER` submits, finds, reports, cancels and lists queues. `NOTICES` and `NOISE` are
  signs of an end in a job's output. `AFTER` starts a command after a job. Its helpers are `side`
  (Flux), `queue` and `supervisor` (local).
- `site`: queues and nodes, read from the output of the scheduler's programs.
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

To add a scheduler:

1. Write a package with `directives`, `environment`, `times` and `jobs`; a scheduler without jobs or
   without scripts leaves the parts out. `pbs` is a good model: plain programs, one file per part.
2. Add its name to `ScriptScheduler` and `JobScheduler` in `homes`. Reading, translation,
   validation, submission and the shipped tools then know it.
3. Add its name to `SCHEDULERS` in `fractale.plan.job` and to `ORDER` in `fractale.jobs.service`,
   and its probe to `fractale.site.probes.schedulers`; `tests/schedulers/test_homes.py` fails
   until then.
4. Test it like `tests/schedulers/test_pbs_scripts.py` and with a script in `tests/corpus`.
"""
