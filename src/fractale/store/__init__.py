"""Data that outlives a process.

- `run_record`: the directory of each run, and its layout.
- `journal`: the calls that a run makes, and their results. `outputs`: large values, stored once by
  their content. `notes`: values that agents keep.
- `checkpoints`: LangGraph's checkpoints, in one SQLite file per run (`sqlite_saver`) or a server
  (`postgres`, `postgres_saver`). `serializer` limits the values in them, `integrity` detects
  damage, and `filesystem` knows where SQLite is safe.
- `locks`: locks on runs for one process at a time.
- `index`: the list of runs, a cache of their records. `sqlite`: common code for all SQLite files.
"""
