"""The runs that the tests of the faces look at are what their names say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fractale import events
from fractale.record.history_reader import read_history
from made_runs import HOSTILE, KINDS, MadeRuns, hostile_run


@pytest.mark.parametrize("name", KINDS)
def test_each_kind_of_run(made: MadeRuns, name: str) -> None:
    history = read_history(made.run(name))
    assert history.run == name
    status = {
        **dict.fromkeys(("failed-tool", "failed-job", "handlers"), "failed"),
        **dict.fromkeys(("approval", "question", "form", "review"), "waiting"),
        "killed": "stopped",
    }
    assert history.status == status.get(name, "success"), history.result


def test_the_hostile_run_has_every_event_and_field(tmp_path: Path) -> None:
    """The table in the docstring of `fractale.events` names them."""
    record = hostile_run(tmp_path, long_line=10_000)
    written: dict[str, set[str]] = {}
    for event in record.read_events():
        written.setdefault(event["event"], set()).update(event)
    table = re.findall(r"^(\w+)  +(.*(?:\n {19}.*)*)", events.__doc__ or "", re.MULTILINE)
    for kind, text in table[1:]:
        if kind in events.UNRECORDED:
            continue
        plain = re.sub(r"[\[{(][^\[\](){}]*[\]})]", "", text)
        while plain != (plain := re.sub(r"[\[{(][^\[\](){}]*[\]})]", "", plain)):
            pass
        fields = re.findall(r"(?:^|, )(\w+)(?=,| ?$)", " ".join(plain.split()))
        assert set(fields) - written[kind] <= {"index", "jobs", "handler"}, kind
    history = read_history(record)
    assert [each.path for each in history.attempts][:-1] == list(HOSTILE)
