"""Schedulers, one package each: a fact about PBS is in `fractale.schedulers.pbs` only.

`slurm`, `flux`, `pbs` and `lsf` are schedulers; `local` runs jobs as processes of this machine;
`cobalt` only has scripts to read. Code outside `schedulers` asks a package through the modules
below; `homes` is the only one that imports a package by its name. A package has

- `directives`: `DIALECT` reads the options of a script into a `Request`, and writes them from one.
  Beside it `values` and `mixed` (Slurm), `resources` (PBS), `requirements` (LSF).
- `environment`: `ENVIRONMENT` is what a script's commands find: launcher, programs, variables.
- `times`: time limits as the scheduler writes them; `longest`, from a limit to the kill.
- `jobs`: `ADAPTER` submits, finds, reports, cancels and lists queues. `NOTICES`, `NOISE` and
  `AFTER`: how an end shows in a job's output, and how to start a command after a job. Beside it
  `side` (Flux), `queue` and `supervisor` (local).
- `site`: queues and nodes, read from the output of the scheduler's programs.
- `validator`, if the scheduler can check a script without submitting it: `ask`.

Scripts:

- `script`, `request`: a script taken apart, and what it asks for, in terms of no scheduler.
- `dialects`: whose script a text is, and its reading.
- `reading`, `options`: what readers and writers of directives share.
- `facts`: what a script asks for as JSON, and claims about that checked against its lines.
- `translation`: a script for another scheduler. `body` translates its commands, `launch` its
  launchers, `shell_text` finds what is where in a shell's text.
- `comparison`: whether two scripts ask for the same; `commands`: whether they run the same.
- `validation`: whether a scheduler would accept a script; `shell`: whether its shell would.

Jobs:

- `adapter`: the interface of every scheduler; `job`, `asked`: a job, and what it asks for in all.
- `folder`, `wrapper`, `header`, `positions`: the job's directory, the script that the scheduler
  starts, its directives, and the indices of its array.
- `ends`, `programs`, `names`, `sizes`: ends, programs with a time limit, names, and amounts.

To add a scheduler:

1. Write a package with `directives`, `environment`, `times` and `jobs`; a scheduler without jobs or
   without scripts leaves the parts out. `pbs` is a good model: plain programs, one file a part.
2. Add its name to `ScriptScheduler` and `JobScheduler` in `homes`. Reading, translation,
   validation, submission and the shipped tools then know it.
3. Add its name to `SCHEDULERS` in `fractale.plan.job` and to `ORDER` in `fractale.jobs.service`,
   and its probe to `fractale.site.probes.schedulers`; `tests/schedulers/test_homes.py` fails
   until then.
4. Test it like `tests/schedulers/test_pbs_scripts.py` and with a script in `tests/corpus`.
"""
