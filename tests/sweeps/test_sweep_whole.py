"""`fractale export` on a whole sweep: a crate or a recording per run, and all transitions."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from fractale.cli import run_command as fractale
from fractale.sweeps.driver import drive_here, opened_sweep
from swept import InProcess, made_sweep, settings_in


@pytest.fixture
async def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with a sweep `s` of two real runs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FRACTALE_STATE_DIR", str(tmp_path / "state"))
    record = made_sweep(tmp_path, 2)
    async with opened_sweep(record) as sweep:
        await drive_here(sweep, settings_in(tmp_path), executor=InProcess(tmp_path))
    return tmp_path


def test_a_whole_sweep_is_exported(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert fractale(["export", "s", "--recording", "recorded", "--transitions", "t.jsonl"]) == 0
    found = sorted(path.name for path in (folder / "recorded").iterdir())
    assert found == ["results.csv", "s.0.zip", "s.1.zip"]
    with (folder / "recorded" / "results.csv").open(newline="") as file:
        assert [row["run"] for row in csv.DictReader(file)] == ["s.0", "s.1"]
    lines = (folder / "t.jsonl").read_text().splitlines()
    assert {json.loads(line)["run"] for line in lines} == {"s.0", "s.1"}
    assert fractale(["replay", "recorded/s.1.zip"]) == 0
    capsys.readouterr()
    assert fractale(["export", "s", "--recording", "recorded"]) == 2
    assert "new or empty directory" in capsys.readouterr().err
    assert fractale(["export", "s", "--graph", "mermaid"]) == 2
    assert "fractale export s.0 --graph mermaid" in capsys.readouterr().err


def test_a_crate_per_run(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("rocrate", reason="rocrate is not installed")
    assert fractale(["export", "s", "--crate", "crates"]) == 0
    assert (folder / "crates" / "s.0" / "ro-crate-metadata.json").is_file()
    assert "2 of 2 runs" in capsys.readouterr().err


def test_a_run_that_cannot_be_exported_is_named(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "state" / "runs" / "s.1" / "run.json").write_text("{")
    assert fractale(["export", "s", "--recording", "recorded"]) == 1
    err = capsys.readouterr().err
    assert "run s.1 was not exported" in err
    assert "1 of 2 runs" in err
