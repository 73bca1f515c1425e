"""The hostile run of the tests of the faces is as hostile as it says."""

from __future__ import annotations

import re
from pathlib import Path

from fractale import events
from fractale.record.history_reader import read_history
from made_runs import HOSTILE, hostile_run


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
