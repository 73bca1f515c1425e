"""Flux's answers of several versions, by a stand-in that gives them as the real one was seen to.

The stand-in proves nothing about Flux: it answers what flux-core 0.88.0 answered.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

import pytest

from fractale.errors import SchedulerUnavailable
from fractale.programs import ProgramResult
from fractale.schedulers.adapter import Submitted
from fractale.schedulers.flux.jobs import Flux
from fractale.schedulers.folder import JobFolder
from fractale.schedulers.request import Array
from job_parts import Site, site, until

FOLDER = Path(__file__).parents[1] / "support" / "stand_in_schedulers"


def flux_site(folder: Path, *, program: bool = False, **environment: str) -> Site:
    """A site with the stand-in's bindings; with its program `flux`, too, or one that can nothing.

    The program hides a real Flux that is on the PATH.
    """
    programs, state = folder / "bin", folder / "state"
    programs.mkdir()
    state.mkdir()
    words = f'exec {sys.executable} {FOLDER / "flux" / "program.py"} "$@"'
    (programs / "flux").write_text(f"#!/bin/sh\n{words}\n")
    (programs / "flux").chmod(0o755)
    if not program:
        environment = {"FAKE_FLUX": "none", **environment}
    own = {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "FAKE_STATE": str(state),
        "PYTHONPATH": str(FOLDER),
        "FLUX_URI": "local:///tmp/flux",
    }
    return site(folder, "flux", {**os.environ, **own, **environment})


def tell(here: Site, **more: object) -> None:
    """Let the stand-in say something else of its last job."""
    path = sorted((here.folder.parent / "state").glob("*.json"))[-1]
    path.write_text(json.dumps({**json.loads(path.read_text()), **more}))


def submitted(here: Site) -> list[dict]:
    return [json.loads(path.read_text()) for path in (here.folder.parent / "state").glob("*.json")]


QUEUES = {
    "debug": (4, 1, 8, 2, 3600, "up", True),
    "batch": (4, 1, 8, 2, None, "stopped", False),
}


def seen(queues) -> dict:
    return {
        each.name: (
            each.nodes,
            each.nodes_idle,
            each.cores_per_node,
            each.gpus,
            each.time_limit,
            each.state,
        )
        for each in queues
    }


class TestBindings:
    async def test_those_of_the_site_are_used_before_ones_that_are_too_new(self, tmp_path):
        here = flux_site(tmp_path, program=True, FAKE_BINDINGS="too new")
        assert seen(await here.jobs.queues()) == {name: each[:6] for name, each in QUEUES.items()}

    async def test_queues_without_bindings_that_can_list_them(self, tmp_path):
        here = flux_site(
            tmp_path, program=True, FAKE_BINDINGS="too new", FAKE_FLUX="without python"
        )
        queues = await here.jobs.queues()
        assert seen(queues) == {name: each[:6] for name, each in QUEUES.items()}
        assert {each.name: each.default for each in queues} == {"debug": True, "batch": False}

    async def test_a_flux_without_its_own_python_runs_jobs_by_other_bindings(self, tmp_path):
        here = flux_site(tmp_path, program=True, FAKE_FLUX="without python")
        assert (await here.run("true")).state == "completed"
        assert len(submitted(here)) == 1

    async def test_a_job_gets_the_environment_as_it_was(self, tmp_path):
        here = flux_site(tmp_path, program=True)
        assert (await here.run("true")).state == "completed"
        (job,) = submitted(here)
        environment = job["environment"]
        for name in ("PATH", "PYTHONPATH"):
            assert environment[name] == here.environment[name]

    async def test_an_error_of_the_bindings_is_told_by_its_last_line(self, tmp_path):
        here = flux_site(tmp_path, FAKE_BINDINGS="too new")
        with pytest.raises(Exception, match="AttributeError: 'NoneType' object has no"):
            await here.jobs.queues()

    async def test_no_bindings_at_all(self, tmp_path):
        here = flux_site(tmp_path, PYTHONPATH="/nowhere")
        with pytest.raises(SchedulerUnavailable, match=r"Flux cannot be asked: .*No module named"):
            await here.jobs.submit(here.spec("true"), key="one")

    async def test_an_instance_that_is_gone(self, tmp_path):
        here = flux_site(tmp_path, program=True, FLUX_URI="local:///tmp/down")
        with pytest.raises(SchedulerUnavailable, match="Flux does not answer") as caught:
            await here.jobs.submit(here.spec("true"), key="one")
        assert "FLUX_URI is local:///tmp/down" in caught.value.hint
        assert "flux start" not in caught.value.hint

    def test_the_side_program_needs_no_new_python(self):
        import ast

        from fractale.schedulers.flux import side

        ast.parse(Path(side.__file__).read_text(), feature_version=(3, 6))

    def test_of_a_traceback_the_last_line_counts(self):
        said = 'Traceback (most recent call last):\n  File "side.py", line 1\n    x\nOSError: no\n'
        assert ProgramResult(code=1, out="", err=said).complaint == "OSError: no"

    def test_a_banner_is_no_part_of_a_complaint(self):
        drawn = "sbatch: error: *****\n***************\n"
        said = f"{drawn}** sbatch: error: no account **\n***************\nsbatch: no\n"
        assert (
            ProgramResult(code=1, out="", err=said).complaint
            == "sbatch: error: no account; sbatch: no"
        )


class TestJobs:
    async def test_the_last_line_is_the_programs_and_not_the_brokers(self, tmp_path):
        here = flux_site(tmp_path)
        status = await here.run("echo no such atom; exit 3")
        assert (status.state, status.exit_code) == ("failed", 3)
        assert status.reason.endswith("last line: no such atom")

    async def test_a_job_that_never_ran_has_no_exit_code(self, tmp_path):
        here = flux_site(tmp_path)
        handle = await here.jobs.submit(here.spec("true", queue="held"), key="one")
        tell(here, end="unsatisfiable")
        status = await here.jobs.status(handle)
        assert (status.state, status.exit_code, status.started) == ("failed", None, None)
        assert status.reason.startswith("was never started: unsatisfiable request: need 5 node(s)")

    async def test_why_it_waits(self, tmp_path):
        here = flux_site(tmp_path, FAKE_STOPPED="stopped")
        handle = await here.jobs.submit(here.spec("true", queue="held"), key="one")
        assert (await here.jobs.status(handle)).reason.startswith("waits for nodes or cores")
        tell(here, urgency=0)
        status = await here.jobs.status(handle)
        assert status.reason.startswith("is held, and will not start until its urgency is raised")
        facts = submitted(here)[0]
        tell(here, urgency=16, asked={**facts["asked"], "queue": "stopped"})
        status = await here.jobs.status(handle)
        assert status.reason.startswith("waits: queue stopped is stopped")

    async def test_all_nodes_are_told(self, tmp_path):
        here = flux_site(tmp_path)
        handle = await here.jobs.submit(here.spec("sleep 300"), key="one")
        await here.running(handle)
        assert (await here.jobs.status(handle)).nodes == ("corona7", "corona8")
        await here.jobs.cancel(handle)


class TestArrays:
    def asked(self, handle, *indices: int) -> Submitted:
        return Submitted(
            folder=JobFolder(handle.job_dir), native_id=handle.native_id, indices=indices
        )

    async def test_each_element_is_a_job_and_all_are_one_question(self, tmp_path):
        here = flux_site(tmp_path)
        script = "echo element $FRACTALE_INDEX; [ $FRACTALE_INDEX -ne 3 ]"
        spec = here.spec(script, array=Array.parse("1-4%2"))
        handle = await here.jobs.submit(spec, key="four")
        folder = JobFolder(handle.job_dir)
        await until(lambda: all(folder.element(index).ended() for index in (1, 2, 3, 4)))
        assert [folder.element(index).ended().code for index in (1, 2, 3, 4)] == [0, 0, 1, 0]
        assert folder.element(2).log.read_text() == "element 2\n"
        await until(lambda: all(job["state"] == "ended" for job in submitted(here)))
        (found,) = await Flux.of(here.environment).records([self.asked(handle, 1, 2, 3, 4)])
        assert {index: each.state for index, each in found.items()} == {
            1: "completed",
            2: "completed",
            3: "failed",
            4: "completed",
        }
        waits = [job["asked"].get("system.dependencies") for job in submitted(here)]
        assert sum(each is not None for each in waits) == 2  # no more than two at a time

    @pytest.mark.parametrize("lost", [(), ("flux.ids",)])
    async def test_a_submission_that_was_killed_is_completed(self, tmp_path, lost):
        here = flux_site(tmp_path)
        spec = here.spec("echo $FRACTALE_INDEX >> ran", array=Array.parse("1-5"))
        dying = site(tmp_path, "flux", {**here.environment, "FAKE_KILLED_AT": "3"})
        with pytest.raises(SchedulerUnavailable):
            await dying.jobs.submit(spec, key="five")
        assert len(submitted(here)) == 2
        (folder,) = (here.folder.parent / "jobs").glob("fr*")
        for name in lost:
            (folder / name).write_text("")
        handle = await here.jobs.submit(spec, key="five")
        jobs = JobFolder(handle.job_dir)
        await until(lambda: all(jobs.element(index).ended() for index in range(1, 6)))
        await asyncio.sleep(0.5)
        assert sorted((here.folder / "ran").read_text().split()) == ["1", "2", "3", "4", "5"]
        assert len(submitted(here)) == 5
        assert await here.jobs.find("five") == handle

    async def test_it_is_cancelled_as_a_whole(self, tmp_path):
        here = flux_site(tmp_path)
        spec = here.spec("sleep 300", array=Array.parse("1-3"))
        handle = await here.jobs.submit(spec, key="three")
        folder = JobFolder(handle.job_dir)
        await until(lambda: all(folder.element(index).started() for index in (1, 2, 3)))
        await Flux.of(here.environment).cancel(folder, handle.native_id)
        await until(lambda: all(folder.element(index).ended() for index in (1, 2, 3)))
        await until(lambda: all(job["state"] == "ended" for job in submitted(here)))
        (found,) = await Flux.of(here.environment).records([self.asked(handle, 1, 2, 3)])
        assert {each.state for each in found.values()} == {"cancelled"}
