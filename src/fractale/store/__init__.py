"""What outlives a process.

- `outputs`: large values, kept once by their content.
- `checkpoints`: LangGraph's checkpoints, read with care.
- `records`: the folder of each run: how it was started and every event of it.
"""
