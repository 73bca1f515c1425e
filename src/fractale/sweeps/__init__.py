"""Sweeps: one plan, many runs, one budget, on one machine or on a cluster.

A sweep is a table of inputs. Each row is one run of the plan. To follow a sweep, read the modules
in this order:

1. `spec`: a `SweepSpec` is what the user asks for; `rows_of` makes its table of inputs.
2. `record`: a `SweepRecord` is the sweep's directory: its head, its rows, and the ledger of what
   became of each row.
3. `begin`: checks a spec and writes its record; `dry_run` only tells what it would do.
4. `driver`: `drive` hands rows to an executor until each has ended or waits.
5. `executors`: where runs happen: `local` (warm processes of this machine) or `parsl_executor`.
6. `worker`: performs one `RunTask` (`task`) after another in a warm process.
7. `budget`: what the sweep may still use, reserved before a run starts and settled after it.
8. `results`: reads a record as a `SweepView`, which all displays and exports use.
"""
