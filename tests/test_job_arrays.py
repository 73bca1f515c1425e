"""Job arrays: one submission, and of each element what it did; a foreach over jobs is one, too.

The arrays are real: elements run as plain processes of the local queue.
"""


from __future__ import annotations

from pathlib import Path

import pytest

from fractale.jobs import Jobs
from fractale.schedulers.job import Element
from fractale.schedulers.request import Array
from job_parts import Site, local_site, until


@pytest.fixture
def here(tmp_path: Path) -> Site:
    """Plain processes, so many at a time as the machine has cores."""
    return local_site(tmp_path)


def many(folder: Path, cores: int) -> Site:
    """Plain processes, with more cores than there are."""
    site = local_site(folder)
    site.jobs = Jobs(folder / "jobs", site.environment, "local", cores=cores)
    return site


# One submission


async def test_each_element_runs_once_with_its_index_and_leaves_its_own_end_and_log(here):
    script = "echo got $FRACTALE_INDEX; echo $FRACTALE_INDEX >> ran"
    handle = await here.jobs.submit(here.spec(script, array=Array.parse("1-7:3,9")), key="a")
    status = await here.ended(handle)
    assert (status.state, status.exit_code) == ("completed", 0)
    assert status.reason == "4 of 4 completed"
    assert status.counts == {"completed": 4}
    assert sorted((here.folder / "ran").read_text().split()) == ["1", "4", "7", "9"]
    found = await here.jobs.elements(handle)
    assert list(found) == [1, 4, 7, 9]
    assert {each.state for each in found.values()} == {"completed"}
    assert (handle.job_dir / "elements" / "7" / "log").read_text() == "got 7\n"
    assert await here.log(handle) == "".join(f"[{i}] got {i}\n" for i in (1, 4, 7, 9))
    again = await here.jobs.submit(here.spec(script, array=Array.parse("1-7:3,9")), key="a")
    assert again == handle


async def test_the_reason_counts_the_elements_and_names_those_that_did_not_do_their_work(here):
    script = "case $FRACTALE_INDEX in 2) exit 3;; 4) kill -9 $$;; 5) sleep 60;; esac"
    handle = await here.jobs.submit(here.spec(script, array=Array.parse("1-6"), time=2.0), key="a")
    status = await here.ended(handle)
    assert status.reason == "3 of 6 completed, 2 failed, 1 timed out: elements 2, 4, 5"
    assert status.state == "failed"
    found = await here.jobs.elements(handle)
    assert [each.state for each in found.values()] == [
        *("completed", "failed", "completed", "failed", "timeout", "completed")
    ]
    assert found[2].exit_code == 3
    assert "SIGKILL" in found[4].reason
    assert "hit its time limit of 2 s" in found[5].reason


async def test_elements_may_run_different_things_in_one_submission(here):
    elements = {
        1: Element(folder=here.folder, command=("sh", "-c", "echo a $X $Y"), env={"X": "it's"}),
        2: Element(folder=here.folder, script="#!/bin/sh\necho b; exit 4\n"),
        3: Element(folder=here.folder.parent, script="#!/bin/sh\npwd\n"),
    }
    spec = here.spec("exit 9", array=Array.parse("1-3"), elements=elements, env={"Y": "2"})
    handle = await here.jobs.submit(spec, key="a")
    status = await here.ended(handle)
    assert status.reason == "2 of 3 completed, 1 failed: element 2"
    logs = [(handle.job_dir / "elements" / str(i) / "log").read_text() for i in (1, 2, 3)]
    assert logs == ["a it's 2\n", "b\n", f"{here.folder.parent}\n"]


async def test_no_more_elements_run_at_a_time_than_may_and_others_pass_them(tmp_path):
    site = many(tmp_path, 4)
    gate = "while [ ! -e open ]; do sleep 0.05; done"
    array = await site.jobs.submit(site.spec(gate, array=Array.parse("1-6%2")), key="a")
    await until(lambda: len(list(array.job_dir.glob("elements/*/started"))) == 2)
    status = await site.run("true", key="b")
    assert status.state == "completed"
    assert len(list(array.job_dir.glob("elements/*/started"))) == 2
    now = await site.jobs.status(array)
    assert now.state == "running"
    assert now.counts == {"running": 2, "pending": 4}
    (site.folder / "open").touch()
    assert (await site.ended(array)).reason == "6 of 6 completed"


async def test_an_array_takes_its_cores_for_each_element_and_in_order(tmp_path):
    site = many(tmp_path, 2)
    script = "echo $FRACTALE_INDEX >> began; sleep 0.2"
    handle = await site.jobs.submit(site.spec(script, array=Array.parse("1-4"), tasks=2), key="a")
    await site.ended(handle)
    assert (site.folder / "began").read_text().split() == ["1", "2", "3", "4"]


async def test_a_cancelled_array_ends_what_runs_and_begins_nothing_more(tmp_path):
    site = many(tmp_path, 2)
    handle = await site.jobs.submit(site.spec("sleep 60", array=Array.parse("1-5")), key="a")
    await until(lambda: len(list(handle.job_dir.glob("elements/*/started"))) == 2)
    status = await site.jobs.cancel(handle)
    assert status.state == "cancelled"
    assert status.reason == "0 of 5 completed, 5 cancelled: elements 1, 2, 3, 4, 5"
    assert len(list(handle.job_dir.glob("elements/*/started"))) == 2


async def test_a_lost_queue_loses_no_element_and_repeats_none(tmp_path):
    site = many(tmp_path, 2)
    script = "echo $FRACTALE_INDEX >> ran; sleep 0.3"
    handle = await site.jobs.submit(site.spec(script, array=Array.parse("1-8")), key="a")
    await until(lambda: len(list(handle.job_dir.glob("elements/*/ended.*"))) >= 2)
    for path in (tmp_path / "jobs" / ".local").rglob("[0-9]*"):
        path.unlink()
    status = await site.ended(handle)
    assert status.reason == "8 of 8 completed"
    assert sorted((site.folder / "ran").read_text().split()) == [str(i) for i in range(1, 9)]
