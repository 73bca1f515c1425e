"""The examples of scripts, of jobs with JSON, and of files that are up to date."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import pytest

from scenarios import ROOT, Reader, path_of

EXAMPLES = ("benchmark-script", "up-to-date", "json-jobs")


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_is_valid_and_can_be_drawn(tmp_path, name):
    reader = Reader(tmp_path)
    for command in ("validate", "graph"):
        done = reader(command, f"plans/examples/{name}.yaml")
        assert done.returncode == 0, done.stderr


def test_a_script_picks_the_fastest_run_and_writes_a_batch_script(tmp_path):
    reader = Reader(tmp_path)
    end = reader.end("run", "plans/examples/benchmark-script.yaml", "-i", "steps=100000")
    assert end["outputs"] == {"nodes": 4, "efficiency": 0.785}, end
    lines = (tmp_path / "production.sbatch").read_text().splitlines()
    assert lines[1:4] == ["#SBATCH --nodes=4", "#SBATCH --ntasks=256", "#SBATCH --time=6"]
    end = reader.end("run", "plans/examples/benchmark-script.yaml", "-i", "efficiency=2")
    assert end["status"] == "failed"
    assert "stderr: " in end["error"]
    assert "ValueError" in end["error"]


def test_only_what_changed_is_made_again(tmp_path):
    logs = tmp_path / "logs"
    shutil.copytree(ROOT / "plans/examples/data", logs)
    reader = Reader(tmp_path)
    words = ("run", "plans/examples/up-to-date.yaml", "-i", "logs=logs")
    first = reader.events(*words)
    assert path_of(first) == ["find:success", "mean:success", "table:success"]
    table = tmp_path / "results/table.csv"
    assert table.read_text().splitlines() == ["cold,-1.8", "hot,-1.1", "warm,-1.5"]
    again = reader.events(*words)
    assert path_of(again) == ["find:success", "mean:success", "table:skipped"]
    assert items_of(again) == ["skipped", "skipped", "skipped"]
    (logs / "hot.log").write_text("energy 1.0\nenergy 2.0\n")
    changed = reader.events(*words)
    assert path_of(changed) == ["find:success", "mean:success", "table:success"]
    assert sorted(items_of(changed)) == ["skipped", "skipped", "success"]
    assert "hot,1.5" in table.read_text()


def items_of(events: list[dict[str, object]]) -> list[object]:
    return [event["outcome"] for event in events if event["event"] == "item_finished"]


def test_jobs_read_and_answer_with_json(tmp_path):
    end = Reader(tmp_path).end("run", "plans/examples/json-jobs.yaml", "-i", "parts=3")
    assert end["status"] == "success", end
    assert math.isclose(end["outputs"]["pi"], math.pi, abs_tol=0.001)


def test_the_examples_leave_their_own_directory_alone():
    assert not list(Path(ROOT / "plans/examples").glob("*.sbatch"))
