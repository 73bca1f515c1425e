"""Two processes want one run: exactly one has it, the other changes nothing and says who has it."""

from __future__ import annotations

import shutil
import socket

import pytest

from held import ended, project, wait_until
from servers.postgres import new_database

PLAN = """
name: p
steps:
  - {name: one, tool: change, inputs: {what: one}}
  - {name: two, tool: change, inputs: {what: two}}
  - {name: three, tool: change, inputs: {what: three}}
"""


@pytest.fixture(params=["sqlite", "postgresql"])
def held(request, tmp_path, processes):
    url = None
    if request.param == "postgresql":
        url = new_database(request.getfixturevalue("postgres"))
    with project(tmp_path, processes, url) as made:
        yield made


def refused(process) -> str:
    """What a process says that was too late."""
    _, err = process.communicate()
    assert process.returncode == 2, err
    assert "Traceback" not in err
    return err


def test_of_two_that_resume_one_run_exactly_one_proceeds(held):
    held.hold("two")
    first = held.run(PLAN)
    wait_until(held.is_held("two"), first)
    first.kill()
    first.communicate()
    held.release("two")
    (question,) = ended(held.start("resume", "-1", "--yes"), 4)["waiting"]
    assert question["kind"] == "in_doubt"
    held.hold("three")
    again = ("resume", "-1", "--answer", "two=again", "--yes")
    both = [held.start(*again), held.start(*again)]
    wait_until(lambda: any(p.poll() is not None for p in both), Either(both))
    (loser,) = [p for p in both if p.poll() is not None]
    (winner,) = [p for p in both if p is not loser]
    assert f"is held by process {winner.pid} on {socket.gethostname()} since " in refused(loser)
    wait_until(held.is_held("three"), winner)
    assert f"is held by process {winner.pid} " in refused(held.start(*again)), "nor a third"
    held.release("three")
    assert ended(winner, 0)["status"] == "success"
    assert held.changes() == ["one", "two", "two", "three"]


def test_a_run_that_goes_on_is_not_resumed(held):
    held.hold("two")
    first = held.run(PLAN)
    wait_until(held.is_held("two"), first)
    assert f"is held by process {first.pid} " in refused(held.start("resume", "-1"))
    held.release("two")
    assert ended(first, 0)["status"] == "success"
    assert held.changes() == ["one", "two", "three"]


def test_on_postgresql_not_by_a_machine_that_shares_no_files_either(tmp_path, processes, postgres):
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    with project(here, processes, new_database(postgres)) as held:
        held.hold("two")
        first = held.run(PLAN)
        wait_until(held.is_held("two"), first)
        shutil.copytree(here, there)
        assert f"is held by process {first.pid} " in refused(held.start("resume", "-1", cwd=there))
        held.release("two")
        assert ended(first, 0)["status"] == "success"
        assert held.changes() == ["one", "two", "three"]


class Either:
    """Two processes as one to wait for: it has ended where both have."""

    def __init__(self, both) -> None:
        self._both = both

    def poll(self):
        codes = [process.poll() for process in self._both]
        return None if None in codes else codes

    def communicate(self):
        return [process.communicate() for process in self._both]
