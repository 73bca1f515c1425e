"""Cobalt, the scheduler of Argonne's former machines. fractale only reads its scripts."""

from typing import Final

from fractale.schedulers import Declaration

SCHEDULER: Final = Declaration(
    title="Cobalt",
    scripts="read",
    jobs=False,
    variables=("COBALT_*",),
)
