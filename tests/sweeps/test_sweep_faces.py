"""`fractale sweep show`, `watch` and `export`, on the record of a sweep."""

from __future__ import annotations

import csv
import io
import json
import stat
import subprocess
import sys
import threading
import time

import pytest

from fractale.cli import run_command as fractale
from fractale.sweeps.record import SweepLedger, SweepLock, SweepRecords
from made_sweeps import HOSTILE, START, sweep_record

ROWS = [{"x": i, "potential": f"p{i % 2}"} for i in range(6)]
ENDS = {
    0: {"outputs": {"energy": -1.5}, "used": {"tokens": 100, "node_hours": 0.5}, "seconds": 3.0},
    1: {"outputs": {"energy": 2.5}, "used": {"tokens": 50}, "seconds": 2.0},
    2: {"status": "failed", "error": "job 17 ended with exit code 3", "failed_at": "relax"},
    3: {"status": "failed", "error": HOSTILE, "failed_at": "relax"},
    4: {"status": "waiting", "asks": ["review"]},
}


@pytest.fixture
def record(tmp_path, monkeypatch):
    monkeypatch.setenv("FRACTALE_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    return sweep_record(tmp_path / "state", "s", ROWS, ENDS)


# -- show


def test_show_has_counts_groups_rows_merit_and_commands(record, capsys):
    assert fractale(["sweep", "show", "s"]) == 0
    text = capsys.readouterr().out
    for words in (
        "2 success · 2 failed · 1 waiting · 1 pending",
        "`relax`: job 17 ended with exit code 3",
        "asks at `review`",
        "least     -1.5 at row 0 (x=0, potential=p0)",
        "fractale sweep answer s",
        "fractale sweep retry s --failed",
    ):
        assert words in text
    assert "\x1b" not in text
    assert "next: fractale sweep show s\n" not in text


def test_the_list_counts_failed_rows_as_done_as_all_displays_do(record, capsys):
    assert fractale(["sweep", "list"]) == 0
    assert capsys.readouterr().out.splitlines()[1].split()[:5] == [
        "s",
        "melt",
        "stopped",
        "4/6",
        "2",
    ]


def test_the_latest_sweep_is_minus_one(record, capsys):
    assert fractale(["sweep", "show", "-1", "--failed"]) == 0
    table = capsys.readouterr().out.split("ROW")[1]
    assert [line.split()[0] for line in table.splitlines()[1:3]] == ["2", "3"]


def test_one_row(record, capsys):
    assert fractale(["sweep", "show", "s", "2"]) == 0
    text = capsys.readouterr().out
    assert "failed · row 2 of sweep s" in text
    assert "fractale show s.2" in text


def test_show_as_json_has_all_rows_or_as_many_as_asked_for(record, capsys):
    assert fractale(["sweep", "show", "s", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert (len(data["rows"]), data["all_rows"], data["merit"]) == (6, 6, "energy")
    assert data["failures"][0]["rows"] == [2]
    assert fractale(["sweep", "show", "s", "--json", "--failed", "--limit", "1"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert [row["row"] for row in data["rows"]] == [2]
    assert fractale(["sweep", "show", "s", "4", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["asks"] == ["review"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["show", "s", "9"], "has no row 9"),
        (["show", "s", "--merit", "energi"], "did you mean `energy`?"),
        (["show", "other"], "sweep `other` not found"),
        (["watch", "../s"], "not found"),
        (["export", "s", "-o", "a.xlsx"], "use FILE.csv"),
        (["export", "s", "-o", "missing/a.csv"], "cannot write missing/a.csv"),
    ],
)
def test_wrong_use_says_what_is_wrong(record, capsys, words, says):
    assert fractale(["sweep", *words]) == 2
    assert says in capsys.readouterr().err


def test_a_damaged_record_is_named(record, capsys):
    record.ledger.write_text("{broken\n")
    assert fractale(["sweep", "show", "s"]) != 0
    assert "ledger.jsonl, line 1, is damaged" in capsys.readouterr().err


def test_a_sweep_is_shown_and_exported_without_an_engine(record):
    code = """
import sys
from fractale.cli import run_command
assert run_command(["sweep", "show", "s"]) == 0
assert run_command(["sweep", "export", "s"]) == 0
engines = ("langgraph", "langchain", "langchain_core", "mcp", "fastmcp", "pyarrow")
print([name for name in engines if name in sys.modules], file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"


# -- export


def test_export_prints_csv_and_writes_private_files(record, tmp_path, capsys):
    assert fractale(["sweep", "export", "s"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["state"] for row in rows] == [
        *["success"] * 2,
        *["failed"] * 2,
        "waiting",
        "pending",
    ]
    assert rows[0]["outputs.energy"] == "-1.5"
    assert fractale(["sweep", "export", "s", "-o", "r.jsonl"]) == 0
    assert "6 rows; 2 are not done" in capsys.readouterr().err
    path = tmp_path / "r.jsonl"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert lines[1]["inputs.potential"] == "p1"


def test_export_writes_parquet(record, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    assert fractale(["sweep", "export", "s", "-o", "r.parquet"]) == 0
    table = parquet.read_table(tmp_path / "r.parquet")
    assert table["outputs.energy"].to_pylist()[:3] == [-1.5, 2.5, None]


# -- watch


DONE = {0: {"seconds": 1.0}}


class Driving:
    """A process that drives a sweep, as a watcher sees it: the lock and the ledger."""

    def __init__(self, record, lines, status="success"):
        self._record = record
        self._lines = lines
        self._began = threading.Event()
        self._thread = threading.Thread(target=self._drive)

    def _drive(self):
        with SweepLock(self._record), SweepLedger(self._record) as ledger:
            self._began.set()
            for line in self._lines:
                time.sleep(0.7)  # a watcher looks twice a second
                ledger.add(line)
            ledger.add({"is": "over", "at": time.time()})

    def __enter__(self):
        self._thread.start()
        self._began.wait()

    def __exit__(self, *_):
        self._thread.join()


def ended(row, **more):
    about = {"row": row, "run": f"s.{row}", "attempt": 1, "at": START + 9}
    given = {"status": "success", "used": {}, "outputs": {"energy": 7.5}}
    return {"is": "ended", **about, **given, **more}


def test_watch_follows_each_row_and_ends_with_the_sweep(record, capsys):
    failed = {"status": "failed", "error": "no potential", "failed_at": "relax"}
    with Driving(record, [ended(4), ended(5, **failed)]):
        assert fractale(["sweep", "watch", "s"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("running ▓▓▓▓▓░░░ 4/6")
    assert "row 4  success     x=4, potential=p0  energy=7.5" in lines
    assert any("row 5  failed" in line and "`relax`: no potential" in line for line in lines)
    assert "failed · 3 of 6 rows failed" in lines
    assert "next: fractale sweep show s" in lines


def test_watch_as_json_has_a_line_per_row_and_the_end(record, capsys):
    with Driving(record, [ended(5)]):
        assert fractale(["sweep", "watch", "s", "--json"]) == 4
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["row"] for line in lines[:-1]] == [5]
    assert (lines[-1]["status"], lines[-1]["counts"]["success"]) == ("waiting", 3)


def test_a_sweep_that_no_process_drives_has_ended(record, capsys):
    with SweepLedger(record) as ledger:
        ledger.add(ended(4), ended(5))
    assert fractale(["sweep", "watch", "s", "-q"]) == 1
    assert capsys.readouterr().out.startswith("failed · 2 of 6 rows failed")


def test_a_sweep_may_begin_while_it_is_waited_for(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("FRACTALE_STATE_DIR", str(tmp_path / "state"))
    maker = threading.Timer(0.7, sweep_record, (tmp_path / "state", "late", [{"x": 1}], DONE))
    maker.start()
    assert fractale(["sweep", "watch", "late"]) == 0
    maker.join()
    assert SweepRecords(tmp_path / "state").ids() == ["late"]
    assert "success · its only row" in capsys.readouterr().out
