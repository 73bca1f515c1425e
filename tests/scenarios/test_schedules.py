"""The page on schedules: its crontab runs as cron would run it, its units are valid."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import forked
from scenarios import ROOT

EXAMPLES = ROOT / "docs" / "examples"
PLAN = ROOT / "plans/examples/nightly.yaml"


def entries(home: Path) -> tuple[dict[str, str], list[str]]:
    """The variables and the commands of the example, as cron reads them."""
    variables, commands = dict[str, str](), list[str]()
    for line in (EXAMPLES / "crontab").read_text().replace("/home/anna", str(home)).splitlines():
        if found := re.fullmatch(r"([A-Z]+)=(.*)", line):
            variables[found[1]] = found[2]
        else:
            command = line.split(None, 5)[5]
            assert "%" not in command.replace("\\%", ""), "cron ends a command at a bare %"
            commands.append(command.replace("\\%", "%"))
    return variables, commands


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home directory with a project, and with fractale in its own environment."""
    (tmp_path / "project" / "plans").mkdir(parents=True)
    shutil.copy(PLAN, tmp_path / "project" / "plans" / "nightly.yaml")
    programs = tmp_path / "venv" / "bin"
    programs.mkdir(parents=True)
    (programs / "fractale").symlink_to(Path(sys.executable).with_name("fractale"))
    return tmp_path


def run(command: str, home: Path, variables: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """A command in the environment of cron: nothing but HOME and the crontab's own variables."""
    kept = {k: v for k, v in os.environ.items() if k.startswith("COVERAGE_")}
    return subprocess.run(
        ["/bin/sh", "-c", command],
        env={"HOME": str(home), "LOGNAME": "anna", **kept, **variables},
        cwd=home,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )


def test_the_crontab_runs_the_plan_once_a_day_and_resumes_what_is_ready(home):
    if shutil.which("flock") is None:
        pytest.skip("flock is not installed")
    variables, (nightly, ready) = entries(home)
    log = home / "project" / "nightly.log"
    done = run(nightly, home, variables)
    assert done.returncode == 0, log.read_text()
    assert "success" in log.read_text()
    assert len(list((home / "project/.fractale/runs").glob("nightly-*"))) == 1
    again = run(nightly, home, variables)
    assert again.returncode == 2, log.read_text()
    assert run(ready, home, variables).returncode == 0, log.read_text()


def test_a_disk_that_is_too_full_ends_the_run_with_an_alert(home):
    variables, _ = entries(home)
    words = ("run", "plans/nightly.yaml", "-q", "-i", "most=0")
    env = {"HOME": str(home), forked.TRUSTED: "", **forked.measured(), **variables}
    done = forked.run(words, cwd=home / "project", env=env)
    assert done.returncode == 1, done.stderr
    assert "the disk of . is full to" in done.stderr
    assert (home / "project/ALERT.txt").read_text().startswith("the disk of . is full to")
    assert len((home / "project/disk.csv").read_text().splitlines()) == 1


def test_the_page_shows_the_crontab_that_is_tested():
    assert (EXAMPLES / "crontab").read_text() in (ROOT / "docs" / "schedules.md").read_text()


def test_the_units_are_valid(home):
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd-analyze is not installed")
    units = home / "units"
    units.mkdir()
    for name in ("fractale-nightly.service", "fractale-nightly.timer"):
        shutil.copy(EXAMPLES / name, units)
    runtime = home / "runtime"
    runtime.mkdir(mode=0o700)
    done = subprocess.run(
        [analyze, "--user", "verify", *map(str, sorted(units.iterdir()))],
        env={"PATH": os.environ["PATH"], "HOME": str(home), "XDG_RUNTIME_DIR": str(runtime)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if "Failed to initialize manager" in done.stderr:
        pytest.skip(f"systemd-analyze does not work here: {done.stderr.strip()}")
    assert (done.returncode, done.stderr) == (0, "")
