"""`fractale report SWEEP`: one file with counts, limits, failures, plots, rows and the plan."""

from __future__ import annotations

import re
import stat

import pytest

from fractale.cli import run_command as fractale
from fractale.masking import Masker
from fractale.report.sweep import MOST_ROWS, sweep_page, sweep_report
from fractale.sweeps.results import view_of
from made_sweeps import HOSTILE, limit, row_view, sweep_record, view

SECRET = "sk-0123456789abcdef"


@pytest.fixture
def record(tmp_path, monkeypatch):
    monkeypatch.setenv("FRACTALE_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    rows = [{"x": i, "potential": f"p{i % 2}"} for i in range(6)]
    ends = {i: {"outputs": {"energy": i * 0.5, "log": HOSTILE}, "seconds": 2.0} for i in range(3)}
    ends[3] = {"status": "failed", "error": HOSTILE, "failed_at": "relax"}
    ends[4] = {"status": "waiting", "asks": [HOSTILE]}
    made = sweep_record(tmp_path / "state", "s", rows, ends, inputs={"steps": 100})
    made.plan.write_text(f"name: melt\nsteps: [{{name: relax, tool: t}}]\n# {SECRET}\n")
    return made


def test_the_report_of_a_sweep_has_everything_in_one_private_file(record, tmp_path, capsys):
    assert fractale(["report", "s"]) == 0
    path = tmp_path / "s.html"
    assert "wrote s.html" in capsys.readouterr().err
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    html = path.read_text()
    for words in (
        "melt · sweep s",
        "3 success",
        "Why rows failed",
        "Rows that wait",
        "least energy",
        "<svg",
        "The plan as it was run",
        "fractale sweep answer s",
    ):
        assert words in html
    assert html.count('scope="row"') == 6


def test_nothing_is_loaded_and_nothing_foreign_is_markup(record):
    html = sweep_report(view_of(record), record)
    assert "<script>alert" not in html
    assert "\x1b" not in html
    assert "\u202e" not in html
    assert not re.findall(r'(?:src|href)="(?!#|data:)', html)
    assert "default-src &#39;none&#39;" in html


def test_secrets_in_the_plan_are_masked(record):
    html = sweep_report(view_of(record), record, Masker([SECRET]))
    assert SECRET not in html


def test_a_plot_per_input_that_is_a_number_and_a_share_per_state(record):
    page = sweep_page(view_of(record), record)
    assert [(plot.title, plot.x_label, len(plot.points)) for plot in page.plots] == [
        ("energy", "x", 3)
    ]
    assert sum(share.width for share in page.shares) == pytest.approx(600, abs=1)
    assert page.columns[:4] == ("state", "x", "potential", "energy")
    assert page.numeric[:4] == (False, True, False, True)


def test_limits_say_what_is_left(record):
    page = sweep_page(view([row_view(0)], limits=(limit("node_hours", 40, 9.8, 1.2),)), record)
    assert page.limits == (("node_hours", "9.8 used · 1.2 reserved · 29 of 40 left"),)


def test_a_long_table_says_what_is_left_out(record):
    page = sweep_page(view([row_view(i) for i in range(MOST_ROWS + 5)]), record)
    assert len(page.rows) == MOST_ROWS
    assert "fractale sweep export s" in page.note


def test_a_sweep_is_not_compared_with_runs(record, capsys):
    assert fractale(["report", "s", "s.0"]) == 2
    assert "one sweep, or about runs" in capsys.readouterr().err
