"""Sweeps in `fractale web`, without a server: the list, the page's parts, and what can be done."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from fractale.settings import Settings
from fractale.sweeps.actions import possible
from fractale.sweeps.record import SweepLock
from fractale.web.access import CSRF
from fractale.web.environment import environment
from fractale.web.lists import Filter, run_list
from fractale.web.sweeps import PAGE, RowFilter, Sweeps, sweep_of
from made_sweeps import HOSTILE, row_view, run_records, sweep_record, view


@pytest.fixture
def state(tmp_path):
    return tmp_path / "state"


@pytest.fixture
def sweeps(state) -> Sweeps:
    return Sweeps(Settings(state_dir=state), by="a test")


def parts(sweeps: Sweeps, record, wanted: RowFilter | None = None) -> str:
    templates = environment()
    templates.globals |= {"csrf": "0" * 64, "csrf_name": CSRF}
    shown = sweeps.shown(record, wanted or RowFilter())
    return templates.get_template("sweep_parts.html").render(shown=shown)


class Tags(HTMLParser):
    """The names of all elements of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.names: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.names.append(tag)


def test_the_list_has_each_sweep_and_folds_its_runs(state, sweeps):
    sweep_record(state, "s", [{"x": i} for i in range(4)], {0: {"seconds": 1.0}})
    run_records(state, "s", 3)
    (line,) = sweeps.listed().lines
    assert (line.sweep, line.plan, line.state, line.done) == ("s", "melt", "stopped", "1/4")
    assert run_list(state, Filter()).rows == []
    assert len(run_list(state, Filter(sweep="s")).rows) == 3
    assert len(run_list(state, Filter(text="s.1")).rows) == 1
    assert sweeps.listed(text="other").lines == []


def test_a_damaged_sweep_is_named_and_hides_no_other(state, sweeps):
    sweep_record(state, "good", [{"x": 1}])
    sweep_record(state, "bad", [{"x": 1}]).ledger.write_text("{broken\n")
    found = sweeps.listed()
    assert [line.sweep for line in found.lines] == ["good"]
    assert "sweep bad cannot be read" in found.note


def test_the_page_has_buttons_for_what_can_be_done_and_pages_of_rows(state, sweeps):
    rows = [{"x": i} for i in range(PAGE + 5)]
    ends = {3: {"status": "failed", "error": "no", "failed_at": "relax"}}
    record = sweep_record(state, "s", rows, ends)
    html = parts(sweeps, record)
    assert re.findall(r'action="([^"]+)"', html) == [
        "/sweeps/s/resume",
        "/sweeps/s/retry",
        "/sweeps/s/cancel",
    ]
    assert html.count('name="csrf"') == 3
    assert "page 1 of 2" in html
    assert html.count('<th scope="row">') == PAGE
    assert parts(sweeps, record, RowFilter(page=9)).count('<th scope="row">') == 5
    failed = parts(sweeps, record, RowFilter(state="failed"))
    assert re.findall(r'<th scope="row">(\d+)', failed) == ["3"]


def test_a_sweep_in_progress_can_only_be_cancelled(state, sweeps):
    record = sweep_record(state, "s", [{"x": 1}])
    with SweepLock(record):
        assert re.findall(r'action="([^"]+)"', parts(sweeps, record)) == ["/sweeps/s/cancel"]
    assert "/sweeps/s/resume" in parts(sweeps, record)


@pytest.mark.parametrize(
    ("states", "more", "can"),
    [
        (["success"], {}, set()),
        (["failed", "success"], {}, {"retry"}),
        (["pending", "failed"], {"status": "stopped"}, {"resume", "cancel", "retry"}),
        (["stopped"], {"status": "stopped"}, {"resume", "cancel"}),
        (["pending"], {"status": "limit", "reached": "tokens"}, {"cancel"}),
        (["waiting"], {"status": "waiting"}, {"cancel"}),
        (["pending", "failed"], {"status": "running"}, {"cancel"}),
        (["pending"], {"status": "queued"}, {"cancel"}),
    ],
)
def test_what_can_be_done_to_a_sweep(states, more, can):
    rows = [row_view(i, state) for i, state in enumerate(states)]
    assert possible(view(rows, **more)) == can


def test_nothing_foreign_is_markup(state, sweeps):
    ends = {
        0: {"outputs": {HOSTILE: 1.0, "log": HOSTILE}, "seconds": 1.0},
        1: {"status": "failed", "error": HOSTILE, "failed_at": HOSTILE},
        2: {"status": "failed", "error": "2", "failed_at": HOSTILE},
    }
    record = sweep_record(
        state, "s", [{HOSTILE: HOSTILE}] * 3, ends, plan=HOSTILE, executor=HOSTILE, merit=HOSTILE
    )
    html = parts(sweeps, record)
    assert "script" not in Tags(html).names
    assert not {"\x1b", "\x07", "\u202e"} & set(html)


@pytest.mark.parametrize(
    ("head", "name"),
    [
        ({"sweep": {"id": "s", "row": 1}}, "s"),
        ({}, ""),
        ({"sweep": {"id": "../x"}}, ""),
        ({"sweep": 3}, ""),
    ],
)
def test_the_sweep_of_a_run(head, name):
    assert sweep_of(head) == name


@pytest.mark.parametrize(
    ("query", "address"),
    [
        ({"state": "failed", "page": "2"}, "/sweeps/s?state=failed&page=2"),
        ({"state": "<b>", "page": "-1"}, "/sweeps/s"),
        ({"page": "99999999"}, "/sweeps/s"),
    ],
)
def test_filters_of_rows_are_in_the_address(query, address):
    assert RowFilter.of(query).address("s") == address
