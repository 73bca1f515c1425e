"""Local tools that ship with fractale: plain functions that a registry file names by path.

- `files`: read and write text files.
- `batch`: read a batch script, check a model's claims about it, translate it, validate it.
- `validators`: whether Slurm, Flux, PBS or LSF would accept a batch script.
- `jobs`, `job_run`: submit batch jobs, wait for them, read their logs.
- `spack`, `containers`, `kubernetes`: long commands that report their progress (by FastMCP's
  `Context`, as every tool with progress does).
- `lammps`: the metrics of a LAMMPS log.
- `discover`: the programs and resources of this machine and site.
- `tuning`: a search for good settings, one step at a time, and its table and charts.

Each tool accepts and returns JSON, raises ValueError with a message for the user, and imports
nothing of the engine. So a plan, a model and a test call the same function.
"""
