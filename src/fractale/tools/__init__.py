"""Local tools that ship with fractale: plain functions that a registry file names by path.

- `files`: read a text file, write one.
- `batch`: read a batch script, check what somebody claims about it, translate it, validate it.
- `lammps`: the figures of a LAMMPS log.
- `tuning`: a search for good settings, one step at a time, and its table and charts.

Each takes and gives JSON, raises ValueError with a message for people, and imports nothing of
the engine, so a plan, a model and a test call the same function.
"""
