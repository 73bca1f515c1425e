"""Schedulers: one home each, so that a fact about PBS is in `fractale.schedulers.pbs` only.

A home has

- `directives`: the options of its scripts, read into a `Request` and written from one.
- `environment`: its launcher and its variables, for the commands of a script.
- `times`: time limits as it writes them.
- `jobs`: submit, find, record, cancel, queues.

Above the homes, `comparison` holds what two scripts ask for against each other, `commands` what
they run. `others` names schedulers whose scripts are recognized, and not run.
"""
