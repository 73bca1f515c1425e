"""What outlives a process.

- `run_record`: the directory of each run and its layout; the log of its events.
- `journal`: what a run is about to call and what each call returned. `outputs`: large values, kept
  once by their content. `notes`: what its agents keep. `lines`: files that only grow, by whole
  lines.
- `checkpoints`: LangGraph's checkpoints, in one SQLite file per run (`sqlite_saver`) or a server
  (`postgres`, `postgres_saver`). `serializer` says which values they may hold, `integrity` how
  damage is detected, `filesystem` where SQLite is safe.
- `locks`: one process at a time has a run.
- `index`: the list of runs, a cache of their records. `sqlite`: what all SQLite files share.
"""
