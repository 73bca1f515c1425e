"""With no extra installed: `report` and `watch` work, `top` and `web` say which one they need."""

from __future__ import annotations

import subprocess
import sys

import pytest

from faces import without_packages
from made_runs import MadeRuns
from tmux import Tmux

EXTRAS = ("textual", "starlette", "uvicorn", "sse_starlette", "multipart", "python_multipart")


def words(*rest: str) -> list[str]:
    return [sys.executable, "-m", "fractale.cli", *rest]


@pytest.fixture
def bare(made: MadeRuns) -> dict[str, str]:
    """An environment without the packages of the extras, and without any setting of fractale."""
    made.run("failed-job")
    known = {n: v for n, v in made.env.items() if not n.startswith("FRACTALE_")}
    return known | without_packages(made.folder, EXTRAS)


def run(made: MadeRuns, env: dict[str, str], *rest: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        words(*rest),
        cwd=made.folder,
        env=env,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        check=False,
    )


def test_the_packages_are_hidden(made: MadeRuns, bare: dict[str, str]):
    code = "import textual"
    done = subprocess.run([sys.executable, "-c", code], env=bare, check=False, capture_output=True)
    assert b"No module named 'textual'" in done.stderr


def test_a_report_is_written(made: MadeRuns, bare: dict[str, str]):
    done = run(made, bare, "report", "failed-job", "-o", "bare.html")
    assert done.returncode == 0, done.stderr
    assert "Unknown pair style" in (made.folder / "bare.html").read_text()


def test_a_run_is_watched(made: MadeRuns, bare: dict[str, str]):
    done = run(made, bare, "watch", "failed-job")
    assert done.returncode == 1, done.stderr
    assert "ended with exit code 3" in done.stdout + done.stderr


def test_the_page_says_what_it_needs(made: MadeRuns, bare: dict[str, str]):
    done = run(made, bare, "web")
    assert done.returncode == 2
    assert "pip install 'fractale[web]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_runs_in_a_terminal_say_what_they_need(made: MadeRuns, bare: dict[str, str]):
    with Tmux(made.folder, *words("top"), env=bare) as terminal:
        assert terminal.end() == 2
        assert "pip install 'fractale[top]'" in terminal.screen()
        assert "Traceback" not in terminal.screen()
