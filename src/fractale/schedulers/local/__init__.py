"""This machine, without a scheduler."""

from typing import Final

from fractale.schedulers import Declaration

SCHEDULER: Final = Declaration(
    title="this machine",
    scripts="none",
    rank=100,
)
