"""A script for a scheduler, run without one, finds that scheduler's variables."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from fractale.jobs import Jobs
from fractale.schedulers.job import Element
from fractale.schedulers.request import Array
from job_parts import Site, local_site


@pytest.fixture
def here(tmp_path: Path) -> Site:
    """Plain processes, outside of any allocation."""
    site = local_site(tmp_path)
    own = ("SLURM", "PBS", "LSB", "FLUX", "LS_")
    environment = {k: v for k, v in site.environment.items() if not k.startswith(own)}
    site.jobs = Jobs(tmp_path / "jobs", environment, "local")
    return site


def number(handle) -> str:
    """What the script finds as its job's id: no scheduler has one that large."""
    return str(1_000_000_000 + int(handle.native_id.removeprefix("q")))


@pytest.mark.parametrize(
    ("directive", "index"),
    [
        ("#SBATCH --array=0-4:2", "$SLURM_ARRAY_TASK_ID"),
        ("#PBS -J 0-4:2", "$PBS_ARRAY_INDEX"),
        ('#BSUB -J "x[2-6:2]"', "$((LSB_JOBINDEX - 2))"),
    ],
)
async def test_each_element_finds_its_index(here, directive, index):
    status = await here.run(f"{directive}\necho {index} >> ran")
    assert status.reason == "3 of 3 completed"
    assert sorted((here.folder / "ran").read_text().split()) == ["0", "2", "4"]


async def test_an_element_of_slurm_finds_its_array(here):
    script = (
        "#SBATCH --array=3,7 -n 2 -c 1 -J sweep -A lab\n"
        "echo $SLURM_ARRAY_TASK_COUNT $SLURM_ARRAY_TASK_MIN $SLURM_ARRAY_TASK_MAX"
        " $SLURM_JOB_NAME $SLURM_NTASKS $SLURM_CPUS_PER_TASK $SLURM_JOB_NUM_NODES"
        " $SLURM_JOB_NODELIST $SLURM_JOB_ACCOUNT\n"
        'echo "$SLURM_SUBMIT_DIR"\n'
        "echo $((SLURM_JOB_ID)) $((SLURM_ARRAY_JOB_ID))"
    )
    handle = await here.jobs.submit(here.spec(script), key="a")
    await here.ended(handle)
    logs = [(handle.job_dir / "elements" / i / "log").read_text().splitlines() for i in "37"]
    told = f"2 3 7 sweep 2 1 1 {socket.gethostname()} lab"
    assert [log[:2] for log in logs] == [[told, str(here.folder)]] * 2
    ids = [log[2].split() for log in logs]
    assert ids[0][1] == ids[1][1] == number(handle)
    assert len({ids[0][0], ids[1][0], ids[0][1]}) == 3


async def test_what_a_script_does_not_ask_for_is_not_set(here):
    script = (
        "#SBATCH -J one\n"
        "echo ${SLURM_ARRAY_TASK_ID-no} ${SLURM_NTASKS-no} ${SLURM_CPUS_PER_TASK-no}"
        " ${PBS_JOBID-no} $((SLURM_JOB_ID + 0))"
    )
    handle = await here.jobs.submit(here.spec(script), key="a")
    await here.ended(handle)
    assert await here.log(handle) == f"no no no no {number(handle)}\n"


async def test_a_script_of_pbs_finds_its_nodes_and_where_it_was_submitted(here):
    script = (
        "#PBS -N mine\n#PBS -l select=1:ncpus=2:mpiprocs=2\n"
        'cd "$PBS_O_WORKDIR" && pwd\ncat $PBS_NODEFILE\necho $PBS_JOBNAME $PBS_JOBID'
    )
    handle = await here.jobs.submit(
        here.spec(script.replace("$PBS_N", '"$PBS_N').replace("FILE", 'FILE"')), key="a"
    )
    await here.ended(handle)
    host, its = socket.gethostname(), number(handle)
    assert (await here.log(handle)).splitlines() == [
        *(str(here.folder), host, host, f"mine {its}.{host}")
    ]


async def test_a_script_of_lsf_and_one_of_flux_find_their_job(here):
    script = '#BSUB -n 2\necho $LSB_JOBID $LSB_HOSTS "$LS_SUBCWD"\ncat "$LSB_DJOB_HOSTFILE"'
    handle = await here.jobs.submit(here.spec(script), key="a")
    await here.ended(handle)
    host = socket.gethostname()
    told = f"{number(handle)} {host} {host} {here.folder}"
    assert (await here.log(handle)).splitlines() == [told, host, host]
    handle = await here.jobs.submit(
        here.spec("#FLUX: -n 2\necho $FLUX_ENCLOSING_ID $FLUX_JOB_SIZE $FLUX_JOB_NNODES"), key="b"
    )
    await here.ended(handle)
    assert await here.log(handle) == f"{number(handle)} 2 1\n"


async def test_the_plan_counts_more_and_elements_have_their_own_folders(here):
    script = '#!/bin/sh\n#SBATCH -n 1\necho $SLURM_NTASKS "$SLURM_SUBMIT_DIR"\n'
    folders = {1: here.folder, 2: here.folder.parent}
    elements = {i: Element(folder=folder, script=script) for i, folder in folders.items()}
    spec = here.spec(
        "#SBATCH -n 1\ntrue",
        array=Array.parse("1-2"),
        elements=elements,
        env={"SLURM_NTASKS": "7"},
    )
    handle = await here.jobs.submit(spec, key="a")
    await here.ended(handle)
    for i, folder in folders.items():
        assert (handle.job_dir / "elements" / str(i) / "log").read_text() == f"7 {folder}\n"


async def test_in_an_allocation_the_variables_of_the_job_stay(tmp_path):
    site = local_site(tmp_path)
    of_job = {"SLURM_JOB_ID": "4711", "SLURM_JOB_NODELIST": "n[1-2]"}
    site.jobs = Jobs(tmp_path / "jobs", {**site.environment, **of_job}, "local")
    script = "#SBATCH --array=5\necho $SLURM_JOB_ID $SLURM_JOB_NODELIST $SLURM_ARRAY_TASK_ID"
    handle = await site.jobs.submit(site.spec(script), key="a")
    await site.ended(handle)
    assert (handle.job_dir / "elements/5/log").read_text() == "4711 n[1-2] 5\n"


async def test_a_program_of_the_scheduler_that_is_not_here_is_told(here):
    script = "#SBATCH -n 1\necho srun\n# srun x\nif false; then\n  OMP=1 ibrun x; exec jsrun x\nfi"
    status = await here.run(script)
    assert status.state == "completed"
    assert status.notices == ("line 6: `ibrun` of Slurm is not on the PATH of this machine",)


async def test_a_program_that_does_not_know_the_job_is_told(here, tmp_path):
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "scancel").write_text("#!/bin/sh\n")
    (programs / "scancel").chmod(0o755)
    path = f"{programs}:{here.environment['PATH']}"
    environment = {k: v for k, v in here.environment.items() if not k.startswith("SLURM")}
    here.jobs = Jobs(tmp_path / "jobs", {**environment, "PATH": path}, "local")
    status = await here.run("#SBATCH -n 1\nscancel $SLURM_JOB_ID")
    assert status.notices == (
        "line 3: `scancel` of Slurm does not know this job, which is a local one",
    )
