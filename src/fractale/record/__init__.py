"""The history of a run, read from its directory without an engine.

`history` is the model, and `history_reader` reads it from events. `jobs` has the batch jobs of a
run; `plans` and `snapshot` have its plan, tools and versions. `diff`, `export`, `crate`,
`recordings` and `freeze` are made from these. `pruning` is about all runs of a state
directory.
"""
