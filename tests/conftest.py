"""What the tests of whole runs share: a way to run a plan on fakes and see all that happened."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest

from counts import FULL, examples
from fractale.settings import Settings
from fractale.testing.plan_run import arun_plan

if TYPE_CHECKING:
    from browser import Browser
    from forked import Forking
    from made_runs import MadeRuns
    from sweep_processes import SweepProcesses

# A shell that starts this process in the background lets it ignore Ctrl-C, and the processes that
# it starts would inherit that. Tests send them the signal.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


# How long an example takes depends on the machine's load. Each run tries the same examples, so that
# a change that passed passes again; `make test-full` tries others each time.
hypothesis.settings.register_profile(
    "any-load", deadline=None, max_examples=examples(100), derandomize=not FULL
)
hypothesis.settings.load_profile("any-load")

# The marker `real`: what takes more of a machine than Python, or minutes of killing and waiting.
# `make test` leaves it out, `make test-real` has it; a single test is marked where it stands.
REAL_FILES = {
    "test_budget_kills": "kills",
    "test_budget_slurm": "Slurm, kills",
    "test_sweep_kills": "kills",
    "test_agent_durability": "kills",
    "test_answer_command": "tmux, kills",
    "test_array_kills": "kills",
    "test_ask_kills": "kills, pseudo-terminals",
    "test_ask_terminal": "tmux",
    "test_browser": "a browser",
    "test_extras": "a terminal, other processes",
    "test_other_user_web": "another user of this machine",
    "test_canaries": "a whole run and 20 commands, a terminal",
    "test_chain_kills": "kills",
    "test_confine": "another user, kills",
    "test_detach": "a process in the background",
    "test_dev_server": "LangGraph's development server",
    "test_drained": "signals at each kind of step",
    "test_drafting_kills": "kills",
    "test_ending": "what never returns is waited for",
    "test_full_disk": "mounts, kills",
    "test_graph_agent_kills": "kills",
    "test_hostile": "a browser, a terminal",
    "test_handler_kills": "kills",
    "test_job_folders": "batch jobs whose ends are waited for",
    "test_job_queue": "batch jobs of several processes, kills",
    "test_job_runs": "Slurm, kills",
    "test_jobs_faults": "Slurm, kills",
    "test_kills": "kills",
    "test_many_items_kills": "kills",
    "test_values_kills": "kills",
    "test_web_access": "a server, another user",
    "test_wheel": "builds and installs the wheel, a model",
    "test_web_pages": "a server, runs in the background",
    "test_lost_database": "PostgreSQL, kills",
    "test_lost_servers": "MCP servers that are killed",
    "test_parsl_local": "worker processes that are killed",
    "test_parsl_slurm": "Slurm of four nodes, kills",
    "test_other_user_studio": "another user, the development server",
    "test_other_user": "another user of this machine, who is made and removed",
    "test_postgres": "PostgreSQL",
    "test_public_face": "type checkers, a wheel",
    "test_replay_kills": "kills",
    "test_requeue": "Slurm, minutes",
    "test_reuse_kills": "processes, kills",
    "test_sbatch_reading": "Slurm",
    "test_script_kills": "kills",
    "test_scenario_containers": "buildah, podman",
    "test_scenario_kubernetes": "kubectl, a server of another package",
    "test_scenario_lammps": "LAMMPS, MPI, Slurm",
    "test_scenario_spack": "an installation that is killed",
    "test_site_rules": "strace, ss",
    "test_slurm_nodes": "Slurm of four nodes, slurmdbd, MariaDB",
    "test_stops_anywhere": "kills",
    "test_syncs": "strace",
    "test_stranger_plan": "pseudo-terminals",
    "test_terminal": "tmux, pseudo-terminals",
    "test_top_actions": "runs in the background",
    "test_top_command": "tmux",
    "test_two_processes": "kills",
    "test_waiting_kills": "kills",
    "test_watch": "tmux, kills",
}
REAL_FIXTURES = {"browser", "postgres", "slurm", "studio"}
NAMES_REAL = re.compile(
    r"mark\.real\b|usefixtures|getfixturevalue|\b(" + "|".join(sorted(REAL_FIXTURES)) + r")[,:)]"
)
"""What is in the text of a file, other than `REAL_FILES`, that has a test of the second half."""


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Don't import a file that has no test of the half that is run: each process imports all."""
    half = config.getoption("markexpr")
    if half not in ("real", "not real") or not collection_path.match("test_*.py"):
        return None
    if collection_path.stem in REAL_FILES:
        return half == "not real" or None
    if half == "real" and not NAMES_REAL.search(collection_path.read_text(encoding="utf-8")):
        return True
    return None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        fixtures = set(getattr(item, "fixturenames", ()))
        marked = item.get_closest_marker("real")
        if marked or item.path.stem in REAL_FILES or fixtures & REAL_FIXTURES:
            item.add_marker("real")
            known = item.path.stem in REAL_FILES or NAMES_REAL.search(item.path.read_text("utf-8"))
            assert known, f"{item.path}: its name belongs into REAL_FILES"


@pytest.fixture(autouse=True)
def trusted_projects(monkeypatch: pytest.MonkeyPatch) -> None:
    """The projects of the tests are theirs; tests of strangers' projects take this away."""
    monkeypatch.setenv("FRACTALE_TRUST_PROJECT", "1")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings that read nothing of the machine they run on."""
    return replace(Settings(), state_dir=tmp_path / ".fractale", poll_seconds=0.5)


@pytest.fixture
def run_plan(settings: Settings) -> Callable[..., Any]:
    """Run a plan given as text; `tools` is a FakeToolServer, `model` a ScriptedModel."""
    return partial(arun_plan, settings=settings)


@pytest.fixture
def processes() -> Iterator[Forking]:
    """Starts processes of the command line quickly; those that a test leaves are ended."""
    from forked import forking

    with forking().ending() as made:
        yield made


@pytest.fixture(scope="session")
def sweeping() -> Iterator[SweepProcesses]:
    """Starts drivers of sweeps quickly, and their workers; those that are left are ended."""
    from sweep_processes import sweep_processes

    with sweep_processes() as made:
        yield made


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The URL of a PostgreSQL server of the tests' own."""
    from servers.postgres import running_postgres

    with running_postgres() as url:
        yield url


@pytest.fixture(scope="session")
def running_browser() -> Iterator[Browser]:
    """The browser of this process of the test runner."""
    from browser import running_browser

    with running_browser() as browser:
        yield browser


@pytest.fixture
def browser(running_browser: Browser) -> Iterator[Browser]:
    """An empty window. A test fails if a page complained in the console or asked another host."""
    running_browser.fresh()
    yield running_browser
    running_browser.check()


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MadeRuns]:
    """Real runs to look at, in one directory; a test that changes one makes it under its own id."""
    from made_runs import made_runs

    with made_runs(tmp_path_factory.mktemp("made") / "melt") as made:
        yield made
