"""Properties of the dialects of PBS and LSF. Those of Slurm and Flux are in their own tests."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batch_requests import read_back, refused, requests, scripts, untold
from fractale.schedulers.dialects import dialect_of
from fractale.schedulers.request import Request
from fractale.schedulers.script import Dialect

BOTH = pytest.mark.parametrize(
    "dialect", [dialect_of("pbs"), dialect_of("lsf")], ids=["pbs", "lsf"]
)


@BOTH
@given(asked=requests())
@settings(deadline=None)
def test_what_is_written_is_read_back_or_told(dialect: Dialect, asked: Request) -> None:
    written = dialect.write(asked)
    reading = read_back(dialect, written)
    assert refused(reading) == []
    assert untold(asked, written, reading.request) == []
    assert written.lost.keys() <= asked.said().keys()
    assert all(each.sets or each.untold for each in reading.directives)


@BOTH
@given(data=st.data())
@settings(deadline=None)
def test_whatever_is_in_the_lines_is_read(dialect: Dialect, data: st.DataObject) -> None:
    reading = dialect.read(data.draw(scripts(dialect.mark)))
    assert all(each.sets or each.untold or each.invalid for each in reading.directives)
    assert reading.request.totals().tasks >= 1


@pytest.mark.parametrize(("here", "there"), [("lsf", "pbs"), ("pbs", "lsf")])
@given(asked=requests())
@settings(deadline=None)
def test_there_and_back_keeps_what_both_can_say(here: str, there: str, asked: Request) -> None:
    """What one scheduler has read, the other one writes, and it comes back."""
    first = read_back(dialect_of(here), dialect_of(here).write(asked)).request
    away = dialect_of(there).write(first)
    back = dialect_of(here).write(read_back(dialect_of(there), away).request)
    found = read_back(dialect_of(here), back).request
    lost = {**away.lost, **back.lost}
    told = type(away)(lines=(), lost=lost, notes=away.notes + back.notes)
    if "name" in lost:  # names of files hold it
        told = type(away)(lines=(), lost={**lost, "output": "", "error": ""}, notes=told.notes)
    assert untold(first, told, found) == []
