"""Which scheduler jobs go to when none is named: one that answers."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from fractale.errors import SchedulerUnavailable
from fractale.jobs import Jobs, JobSpec
from fractale.schedulers.slurm.jobs import CONFIGURATIONS
from stand_ins import write

DNS = "scontrol: fatal: Could not establish a configuration source"
PROGRAMS = {
    "slurm": ("sbatch", "scontrol", "squeue", "sinfo"),
    "pbs": ("qsub", "qstat", "qdel", "qselect"),
    "lsf": ("bsub", "bjobs", "bkill", "lsid"),
    "flux": ("flux",),
}


def machine(folder: Path, **bodies: str) -> dict[str, str]:
    """An environment with the programs of schedulers, each doing what the shell's text says."""
    programs = folder / "bin"
    for scheduler, body in bodies.items():
        for name in PROGRAMS[scheduler]:
            write(programs, name, body)
    return {"PATH": f"{programs}:/usr/bin:/bin"}


SILENT = f"echo '{DNS}' >&2; exit 1"
DOWN = "echo 'Slurmctld(primary) at head is DOWN'; exit 1"
UP = "echo 'Slurmctld(primary) at head is UP'"

NO_SLURM = pytest.mark.skipif(
    any(Path(each).exists() for each in CONFIGURATIONS), reason="a Slurm is set up here"
)


@pytest.mark.parametrize(
    ("bodies", "more", "chosen"),
    [
        ({"slurm": UP, "pbs": "true"}, {}, "slurm"),
        ({"slurm": SILENT, "pbs": "true"}, {}, "pbs"),
        ({"slurm": SILENT, "pbs": "exit 1", "lsf": "true"}, {}, "lsf"),
        ({"slurm": SILENT, "pbs": "exit 1", "flux": "true"}, {}, "flux"),
        pytest.param({"slurm": SILENT}, {}, "local", marks=NO_SLURM),
        ({"flux": "exit 1"}, {}, "local"),
        ({"slurm": UP, "flux": "true"}, {"FLUX_URI": "local:///run/flux"}, "flux"),
        ({"slurm": UP, "flux": "exit 1"}, {"FLUX_URI": "local:///run/flux"}, "slurm"),
        ({"slurm": DOWN, "pbs": "true"}, {}, "pbs"),
        ({"slurm": SILENT, "lsf": "true"}, {"SLURM_CONF": "/etc/s.conf"}, "lsf"),
    ],
)
async def test_one_that_answers_is_taken(tmp_path, bodies, more, chosen):
    environment = {**machine(tmp_path, **bodies), **more}
    assert Jobs(tmp_path / "jobs", environment).scheduler == chosen


@pytest.mark.parametrize(
    ("bodies", "more", "words"),
    [
        ({"slurm": DOWN}, {}, "Slurm: Slurmctld(primary) at head is DOWN"),
        ({"slurm": SILENT}, {"SLURM_CONF_SERVER": "head"}, f"Slurm: {DNS}"),
        (
            {"slurm": DOWN, "pbs": "echo 'cannot connect to server' >&2; exit 111"},
            {"PBS_CONF_FILE": "/etc/pbs.conf"},
            "is DOWN; PBS: cannot connect to server",
        ),
    ],
)
async def test_one_that_is_set_up_and_silent_is_an_error_and_not_this_machine(
    tmp_path, bodies, more, words
):
    jobs = Jobs(tmp_path / "jobs", {**machine(tmp_path, **bodies), **more})
    spec = JobSpec(name="one", folder=tmp_path, command=("true",))
    with pytest.raises(SchedulerUnavailable) as caught:
        await jobs.submit(spec, key="one")
    assert words in caught.value.message
    assert "`scheduler: local`" in caught.value.hint
    assert not (tmp_path / "jobs").exists()
    with pytest.raises(SchedulerUnavailable):
        await jobs.queues()


async def test_it_is_asked_once_and_not_at_all_where_a_scheduler_is_named(tmp_path):
    calls = tmp_path / "calls"
    environment = machine(tmp_path, slurm=f"echo asked >> {calls}; {UP}")
    jobs = Jobs(tmp_path / "jobs", environment)
    assert [jobs.scheduler for _ in range(3)] == ["slurm"] * 3
    assert calls.read_text() == "asked\n"
    assert Jobs(tmp_path / "jobs", environment, "slurm").scheduler == "slurm"
    assert Jobs(tmp_path / "jobs", environment, "local").scheduler == "local"
    assert calls.read_text() == "asked\n"


async def test_one_that_hangs_is_left(tmp_path):
    environment = machine(tmp_path, flux="sleep 60 & wait")
    began = time.monotonic()
    assert Jobs(tmp_path / "jobs", environment).scheduler == "local"
    assert time.monotonic() - began < 50


async def test_what_was_begun_goes_on_where_it_was_begun(tmp_path):
    environment = machine(tmp_path, slurm=DOWN)
    local = Jobs(tmp_path / "jobs", environment, "local")
    spec = JobSpec(name="one", folder=tmp_path, command=("true",))
    handle = await local.submit(spec, key="one")
    (handle.job_dir / "handle.json").unlink()
    assert (await Jobs(tmp_path / "jobs", environment).submit(spec, key="one")) == handle
