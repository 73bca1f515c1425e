"""Sweeps: one plan, many runs, one budget, on one machine or on a cluster.

A sweep is a table of inputs. Each row is one run of the plan. To follow a sweep, read the modules
in this order:

1. `spec`: a `SweepSpec` is what the user asks for; `rows_of` makes its table of inputs. It comes
   from the command line, from a `sweep_file`, or from Python (`invocation`), and may use `tables`.
2. `record`: a `SweepRecord` is the sweep's directory: its head, its rows, and the ledger with the
   start and the end of each row.
3. `begin`: checks a spec and writes its record; `dry_run` only describes the effects.
4. `driver`: `drive` hands rows to an executor until each has ended or waits. `resuming`,
   `cancelling` and `answering` act on a sweep that was started; `detach` starts its driver in a
   job or in the background.
5. `executors`: where runs happen: `local` (warm processes of this machine) or `parsl_executor`.
6. `worker`: performs one `RunTask` (`task`) after another in a warm process.
7. `budget`: what the sweep may still use, reserved before a run starts and settled after it.
8. `results`: reads a record as a `SweepView`, which all displays and exports use. `analysis` groups
   it, `export` writes it as a table, and `pruning` removes whole sweeps.
"""
