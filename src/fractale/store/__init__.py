"""What outlives a process.

- `outputs`: large values, kept once by their content.
- `checkpoints`: LangGraph's checkpoints, read with care: `sqlite` or `postgres`, on what `saving`
  asks of both. `serializer` and `seals` keep values and rows true, `wal` finds what SQLite does
  not tell, `filesystem` where it may run at all, `faults` turns what it says into errors.
- `records`: the folder of each run: how it was started and every event of it.
- `journal`: what a run is about to do and what came of it; `notes`: what its agents keep; `lines`:
  files to which whole lines are added.
- `locks`: one process at a time has a run.
- `index`: one row a run (`run_row`), so that listing is quick; `schema` brings files up to date.
- `prune`: removes runs that nobody needs any more.
"""
