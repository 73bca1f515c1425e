"""Schedulers: one home each, so that a fact about PBS is in `fractale.schedulers.pbs` only.

Homes are `slurm`, `flux`, `pbs` and `lsf`; `local`, whose jobs are processes of this machine; and
`cobalt`, whose scripts are only read. What is outside of `schedulers` asks a home through the
modules below. A home has, as far as its scheduler has it:

- `directives`: the options of its scripts, read into a `Request` and written from one. With it
  `values` and `mixed` (Slurm), `resources` (PBS), `requirements` (LSF).
- `environment`: its launcher, its programs and its variables, for the commands of a script.
- `times`: time limits as it writes them.
- `jobs`: submit, find, record, cancel, queues. With it `side` (Flux), `queue` and `minder` (local).
- `ends`: what it writes into a job's output at its end, and how something starts after a job.
- `site`: its queues and nodes as its programs list them.
- `validator`: what it says itself of a script.

Scripts:

- `script`, `request`: the words of no scheduler: a script taken apart, and what it asks for.
- `dialects`: whose a script is, its reading, and the names of schedulers.
- `others`: schedulers whose scripts are recognized, and not run; the directives of Cobalt.
- `reading`, `options`: what readers and writers of directives share.
- `translation`: a script for another scheduler: `body` has its commands, `environment` what they
  find, `launch` its launchers, `shell_text` what is where in a text of the shell.
- `comparison`: whether two scripts ask for the same; `commands`: whether they run the same.
- `validation`: whether a script is valid, `verdict` what a scheduler on this machine says of it,
  `shell` what its shell says.

Jobs:

- `adapters`, `adapter`: the schedulers that jobs run on, and what each has to do.
- `job`, `asked`, `positions`: a job as a scheduler gets it, what it asks for in all, and the
  indices of its array.
- `folder`, `wrapper`, `header`: its folder, the script that the scheduler starts, and the
  directives that go with that.
- `ends`, `programs`, `names`, `sizes`: ends as homes tell them, programs that are run, names, and
  amounts of memory and time.
"""
