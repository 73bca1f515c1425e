"""Local tools that ship with fractale: plain functions that a registry file names by path.

- `files`: read a text file, write one.
- `batch`: read a batch script, check what somebody claims about it, translate it, validate it.
- `validators`: whether a batch script is one that Slurm, Flux, PBS or LSF would take.
- `spack`, `containers`, `kubernetes`: what takes long there, told while it runs (by FastMCP's
  `Context`, as every tool that has progress to tell).
- `lammps`: the figures of a LAMMPS log.
- `discover`: what is on this machine and site.
- `tuning`: a search for good settings, one step at a time, and its table and charts.

Each takes and gives JSON, raises ValueError with a message for people, and imports nothing of
the engine, so a plan, a model and a test call the same function.
"""
