"""What is on a machine: stand-in programs on a PATH of their own, and the real ones here."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import stat
import subprocess
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import forked
import stand_ins
from fractale.jobs import Queue
from fractale.render.site import site_lines
from fractale.render.text import plain
from fractale.schedulers.lsf.site import columns
from fractale.schedulers.pbs.jobs import Pbs
from fractale.schedulers.slurm.jobs import Slurm
from fractale.schedulers.slurm.site import gpus, read_nodes, read_partition
from fractale.settings import Settings
from fractale.site import PROBES, Finding, Site, discover
from fractale.site.discover import cache_file, look
from fractale.site.probes.folders import REFUSED, SAFE, look_at, safety
from fractale.site.programs import MOST_BYTES, Machine
from fractale.store.filesystem import FileSystem
from servers.running import exists
from slurm import running_slurm
from snapshot import assert_same

PATIENT = 60.0
"""Seconds that a stand-in may take on a machine that has much else to do."""
PROGRAMS = [
    "sinfo",
    "sacct",
    "flux",
    "qstat",
    "pbsnodes",
    "lsid",
    "bqueues",
    "lshosts",
    "nvidia-smi",
    "rocm-smi",
    "spack",
    "mpiexec",
    "mpicc",
    "docker",
    "podman",
    "buildah",
    "apptainer",
    "singularity",
    "ch-run",
    "kubectl",
]


@pytest.fixture
def bin_folder(tmp_path):
    folder = tmp_path / "bin"
    folder.mkdir()
    return folder


@pytest.fixture
def machine(tmp_path, bin_folder):
    """A machine with nothing but what a test puts on its PATH."""
    environment = {"PATH": str(bin_folder), "HOME": str(tmp_path)}
    state_dir = tmp_path / ".fractale"
    return Machine(
        environment=environment,
        timeout=PATIENT,
        state_dir=state_dir,
        folder=tmp_path,
        root=tmp_path / "root",
    )


def on(machine: Machine, **variables: str) -> Machine:
    return replace(machine, environment={**machine.environment, **variables})


async def find(machine: Machine, name: str) -> Finding:
    return (await discover(machine, [name])).find(name)


def agree(found: Finding, queues: Sequence[Queue]) -> None:
    """See that `fractale discover` tells of a scheduler's queues what its jobs are told."""
    alike = {"name": "name", "time_limit": "time_limit", "nodes": "nodes"}
    alike |= {"cores_per_node": "cores_per_node", "default": "default"}
    rows = [queue.as_dict() for queue in queues]
    assert rows
    for own, asked in zip(found.details["queues"], rows, strict=True):
        for key, name in alike.items():
            assert own.get(key, asked[name]) == asked[name]
        assert (own["state"] == "up") == (asked["state"] == "up")


# Nothing, and everything broken


async def test_on_a_bare_machine_everything_is_absent_and_says_why(machine):
    site = await discover(machine)
    for section in ("schedulers", "containers", "kubernetes", "gpus"):
        for finding in site.sections[section]:
            assert finding.state == "absent", finding
            assert finding.problem
    assert site.find("python").state == "works"
    assert set(site.sections) == set(PROBES)
    json.dumps(site.as_dict())


@pytest.mark.parametrize(
    "output", ["", "null", "[]", '{"Queue": 3, "nodes": [], "store": 7}', "|" * 12, "a|b|c|d|e|f"]
)
@pytest.mark.parametrize("code", [0, 3])
async def test_programs_that_say_nonsense_are_told_apart_and_nothing_is_raised(
    machine, bin_folder, output, code
):
    for name in PROGRAMS:
        stand_ins.write(bin_folder, name, f"echo '{output}'; exit {code}")
    site = await discover(machine)
    told = [each for findings in site.sections.values() for each in findings]
    assert not [each for each in told if "could not be examined" in each.problem]
    json.dumps(site.as_dict())
    if code:
        broken = [each for each in told if each.state == "broken"]
        assert {"slurm", "flux", "lsf", "docker", "podman", "kubernetes"} <= {
            each.name for each in broken
        }
        assert all(each.problem for each in broken)


async def test_a_file_that_is_no_program_is_broken(machine, bin_folder):
    (bin_folder / "podman").write_bytes(b"\x7fELF\x00\x01garbage")
    (bin_folder / "podman").chmod(0o755)
    found = await find(machine, "podman")
    assert found.state == "broken"
    assert "can't be started" in found.problem


async def test_a_program_that_hangs_is_ended_with_what_it_started(machine, bin_folder, tmp_path):
    pids = tmp_path / "pids"
    sleeps = "/bin/sleep 600 & echo $$ $! > {}; wait"
    stand_ins.write(bin_folder, "podman", sleeps.format(pids))
    stand_ins.write(bin_folder, "buildah", "exit 0")
    found = await find(replace(machine, timeout=3.0), "podman")
    assert found.state == "broken"
    assert "did not answer within 3 s" in found.problem
    deadline = time.monotonic() + 60
    while any(exists(int(pid)) for pid in pids.read_text().split()):
        assert time.monotonic() < deadline, "the program or its child is still there"
        await asyncio.sleep(0.05)


async def test_what_a_program_leaves_behind_does_not_hold_up_the_rest(machine, bin_folder):
    stand_ins.write(bin_folder, "talker", "/bin/sleep 5 & echo done")
    ran = await replace(machine, timeout=2.0).run(str(bin_folder / "talker"))
    assert "did not answer" in ran.problem  # its output is still open


async def test_of_a_flood_of_output_only_the_beginning_is_kept(machine, bin_folder):
    stand_ins.write(bin_folder, "flood", "/usr/bin/head -c 30000000 /dev/zero")
    ran = await machine.run(str(bin_folder / "flood"))
    assert not ran.problem
    assert len(ran.out) == MOST_BYTES


async def test_programs_are_asked_at_the_same_time(machine, bin_folder, tmp_path):
    """Each of two waits until the other has been started."""
    for name, other in (("podman", "buildah"), ("buildah", "podman")):
        wait = f"while [ ! -e {tmp_path}/{other} ]; do /bin/sleep 0.05; done"
        stand_ins.write(bin_folder, name, f": > {tmp_path}/{name}; {wait}; echo '{{}}'")
    site = await discover(machine, ["podman", "buildah"])
    assert [site.find(name).state for name in ("podman", "buildah")] == ["works", "works"]


async def test_a_secret_that_a_program_says_is_not_in_what_is_found(machine, bin_folder):
    stand_ins.says(bin_folder, "podman", _="!cannot log in with canary-4711-secret")
    stand_ins.says(bin_folder, "mpiexec", _="Open MPI 4.1")
    found = await discover(machine, secrets=["canary-4711-secret"])
    assert "canary" not in json.dumps(found.as_dict())
    assert "cannot log in with ***" in found.find("podman").problem


class Broken(Machine):
    """A machine on which even looking fails."""

    def which(self, *names: str) -> str | None:
        raise ValueError("no such machine")

    async def wait_for(self, call):
        raise TimeoutError


async def test_a_probe_that_fails_is_told_and_the_others_go_on(machine):
    broken = Broken(environment=machine.environment, state_dir=machine.state_dir)
    site = await discover(broken)
    assert site.find("slurm").problem == "could not be examined: ValueError: no such machine"
    assert "did not answer within 10 s" in site.sections["file_systems"][0].problem
    assert site.find("python").state == "works"
    assert site.find("nothing").state == "absent"


# Schedulers


async def test_slurm_has_partitions_limits_nodes_and_gpus(machine, bin_folder):
    stand_ins.slurm(bin_folder)
    found = await find(on(machine, SLURM_JOB_ID="77"), "slurm")
    assert (found.state, found.version) == ("works", "22.05.8")
    debug, batch, old = found.details["queues"]
    assert (debug["name"], debug["time_limit"], debug["default_time"]) == ("debug", 1800, 600)
    assert (debug["nodes"], debug["nodes_idle"], debug["most_nodes_per_job"]) == (4, 3, 2)
    assert batch["default"]
    assert batch["name"] == "batch"
    assert (batch["time_limit"], batch["most_nodes_per_job"]) == (172800, None)
    assert batch["gpus_per_node"] == {"a100": 4}
    assert (old["state"], old["time_limit"], old["gpus_per_node"]) == ("down", None, {"gpu": 2})
    assert [group["count"] for group in found.details["nodes"]] == [80, 11]
    assert found.details["inside_job"] == "77"
    assert found.details["accounting"] is False


async def test_a_slurm_client_without_a_controller_is_not_slurm(machine, bin_folder):
    stand_ins.says(bin_folder, "sinfo", _="!slurm_load_partitions: Unable to contact controller")
    found = await find(machine, "slurm")
    assert found.state == "broken"
    assert "Unable to contact" in found.problem


async def test_flux_has_queues_and_nodes(machine, bin_folder):
    stand_ins.says(
        bin_folder,
        "flux",
        resource="free|3|12|0|n[1-3]\nallocated|1|4|0|n0",
        queue="batch*|1800.000s|8h|0-inf|0-inf|0-inf\ndebug|inf|30m|0-1|0-4|0-0",
        version="commands:    \t\t0.88.0\nlibflux-core:\t\t0.88.0",
    )
    found = await find(machine, "flux")
    assert (found.state, found.version) == ("works", "0.88.0")
    assert [(n["state"], n["count"], n["cores"]) for n in found.details["nodes"]] == [
        ("free", 3, 12),
        ("allocated", 1, 4),
    ]
    batch, debug = found.details["queues"]
    assert (batch["name"], batch["default"], batch["time_limit"]) == ("batch", True, 28800)
    assert (debug["default_time"], debug["time_limit"]) == (None, 1800)


async def test_flux_outside_an_instance_says_so(machine, bin_folder):
    stand_ins.says(bin_folder, "flux", version="commands: 0.88.0", _="!flux: broker unreachable")
    found = await find(machine, "flux")
    assert found.state == "broken"
    assert "FLUX_URI is not set" in found.problem


async def test_pbs_has_queues_and_nodes(machine, bin_folder):
    queues = {
        "pbs_version": "20.0.1",
        "Queue": {
            "workq": {
                "enabled": "True",
                "started": "True",
                "resources_max": {"walltime": "24:00:00", "nodect": 8},
            },
            "closed": {"enabled": "True", "started": "False"},
        },
    }
    nodes = {
        "nodes": {
            "n1": {"state": "free", "resources_available": {"ncpus": 64, "mem": "263865068kb"}},
            "n2": {"state": "down", "resources_available": {"ncpus": 64, "ngpus": 4}},
        }
    }
    stand_ins.says(bin_folder, "qstat", __version="pbs_version = 20.0.1", json=json.dumps(queues))
    stand_ins.says(bin_folder, "pbsnodes", _=json.dumps(nodes))
    found = await find(machine, "pbs")
    assert (found.state, found.version) == ("works", "20.0.1")
    workq, closed = found.details["queues"]
    assert (workq["time_limit"], workq["most_nodes_per_job"], workq["state"]) == (86400, 8, "up")
    assert closed["state"] == "down"
    first, second = found.details["nodes"]
    assert first["memory_per_node_mb"] == 257680
    assert second["gpus_per_node"] == {"gpu": 4}
    agree(found, await Pbs.of(machine.environment).queues())


async def test_another_schedulers_qstat_is_not_pbs(machine, bin_folder):
    stand_ins.says(bin_folder, "qstat", _="SGE 8.1.9")
    assert (await find(machine, "pbs")).state == "absent"


async def test_lsf_has_queues_and_nodes(machine, bin_folder):
    stand_ins.says(
        bin_folder,
        "lsid",
        _="IBM Spectrum LSF Standard 10.1.0.13, Apr 15 2022\n\nMy cluster name is summit\n",
    )
    stand_ins.says(
        bin_folder,
        "bqueues",
        _="QUEUE_NAME  PRIO STATUS       MAX JL/U JL/P JL/H NJOBS PEND RUN\n"
        "batch        30  Open:Active  -   -    -    -    12    2    10",
    )
    stand_ins.says(
        bin_folder,
        "lshosts",
        _="HOST_NAME type model cpuf ncpus maxmem maxswp server RESOURCES\n"
        "n1 X86_64 Intel 60.0 44 256G 4G Yes (mg)",
    )
    found = await find(machine, "lsf")
    assert (found.version, found.details["cluster"]) == ("10.1.0.13", "summit")
    assert found.details["queues"] == [{"name": "batch", "state": "Open:Active"}]
    assert found.details["nodes"][0]["memory_per_node_mb"] == 262144


@given(st.text(alphabet="|*/-0123456789:infgpu,() \n", max_size=80) | st.text(max_size=60))
def test_no_line_of_a_scheduler_breaks_its_reader(text):
    read_partition(text)
    read_nodes(text)
    gpus(text)
    columns(text.splitlines())


@pytest.mark.parametrize(
    ("gres", "kinds"),
    [
        ("(null)", {}),
        ("gpu:4", {"gpu": 4}),
        ("gpu", {"gpu": 1}),
        ("gpu:h100:8(S:0-3)", {"h100": 8}),
        ("gpu:a100:2,gpu:v100:2", {"a100": 2, "v100": 2}),
        ("nvme:1,mic:2", {}),
    ],
)
def test_gpus_are_found_among_generic_resources(gres, kinds):
    assert gpus(gres) == kinds


# Software, GPUs, containers


async def test_lmod_is_found_by_its_variable(machine, bin_folder, tmp_path):
    lmod = stand_ins.says(
        tmp_path / "lmod", "lmod", avail="!/apps/modules:\ngcc/12.2\ngcc/13.1(default)\nopenmpi/\n"
    )
    lmod.write_text(lmod.read_text().replace("exit 1", "exit 0"))  # Lmod lists on stderr
    found = await find(
        on(machine, LMOD_CMD=str(lmod), LMOD_VERSION="8.7", MODULEPATH="/apps/modules"), "modules"
    )
    assert (found.state, found.version, found.details["kind"]) == ("works", "8.7", "Lmod")
    assert found.details["available"] == ["gcc/12.2", "gcc/13.1"]
    assert found.details["modulepath"] == ["/apps/modules"]


async def test_environment_modules_are_found_by_their_home(machine, tmp_path):
    home = tmp_path / "modules"
    (home / "libexec").mkdir(parents=True)
    stand_ins.says(home / "libexec", "modulecmd.tcl", avail="mpi/4.1\nmpi/5.0")
    found = await find(on(machine, MODULESHOME=str(home)), "modules")
    assert found.state == "works"
    assert found.details["available"] == ["mpi/4.1", "mpi/5.0"]


async def test_modules_that_this_shell_did_not_set_up_are_told(machine):
    profile = machine.root / "etc/profile.d"
    profile.mkdir(parents=True)
    (profile / "lmod.sh").touch()
    found = await find(machine, "modules")
    assert found.state == "broken"
    assert "login shell" in found.problem


async def test_spack_is_found_in_its_root(machine, tmp_path):
    stand_ins.says(
        tmp_path / "bin2", "spack", __version="0.23.1 (abc)", find="zlib@1.3\nhdf5@1.14\n==> x"
    )
    (tmp_path / "spack").mkdir()
    (tmp_path / "bin2").rename(tmp_path / "spack/bin")
    for file in (tmp_path / "spack/bin").glob("spack"):
        text = file.read_text().replace(f"{tmp_path}/bin2", f"{tmp_path}/spack/bin")
        file.write_text(text)
    found = await find(on(machine, SPACK_ROOT=str(tmp_path / "spack")), "spack")
    assert (found.state, found.version) == ("works", "0.23.1")
    assert found.details["installed"] == ["hdf5@1.14", "zlib@1.3"]


async def test_mpi_says_whose_it_is(machine, bin_folder):
    stand_ins.says(bin_folder, "mpirun", _="mpirun (Open MPI) 4.1.4")
    stand_ins.says(bin_folder, "mpicc", _="gcc")
    found = await find(machine, "mpi")
    assert (found.details["kind"], found.version) == ("Open MPI", "4.1.4")
    assert found.details["compiler"].endswith("/mpicc")


async def test_gpus_of_both_makers(machine, bin_folder):
    rows = "NVIDIA A100-SXM4-40GB, 40960, 535.104.05\nNVIDIA A100-SXM4-40GB, 40960, 535.104.05"
    stand_ins.says(bin_folder, "nvidia-smi", _=rows)
    card = {"Card series": "AMD Instinct MI250X", "VRAM Total Memory (B)": "68702699520"}
    stand_ins.says(bin_folder, "rocm-smi", _=json.dumps({"card0": card, "system": {}}))
    site = await discover(machine, ["nvidia", "amd"])
    assert site.find("nvidia").version == "535.104.05"
    assert len(site.find("nvidia").details["gpus"]) == 2
    amd = site.find("amd").details["gpus"]
    assert amd == [{"name": "AMD Instinct MI250X", "memory_mb": 65520}]


async def test_a_gpu_without_its_program_is_told(machine):
    (machine.root / "dev").mkdir(parents=True)
    (machine.root / "dev/nvidia0").touch()
    assert (await find(machine, "nvidia")).state == "broken"


async def test_a_docker_client_without_an_engine_is_none(machine, bin_folder):
    stand_ins.no_engine(bin_folder)
    found = await find(machine, "docker")
    assert (found.state, found.version) == ("broken", "28.2.2")
    assert "a client without an engine: Cannot connect" in found.problem


async def test_a_docker_with_an_engine_works(machine, bin_folder):
    both = '{"Client":{"Version":"28.2.2"},"Server":{"Version":"27.1.0"}}'
    stand_ins.says(bin_folder, "docker", __version="Docker version 28.2.2", json=both)
    found = await find(machine, "docker")
    assert (found.state, found.details["engine"]) == ("works", "27.1.0")


async def test_podman_under_dockers_name_is_known(machine, bin_folder):
    stand_ins.says(bin_folder, "docker", __version="podman version 4.3.1", info="host: x")
    found = await find(machine, "docker")
    assert found.state == "works"
    assert "podman" in found.details["note"]


async def test_kubectl_without_a_server_is_a_client_only(machine, bin_folder):
    client = '{"clientVersion":{"gitVersion":"v1.32.4"}'
    body = (
        """case "$*" in *current-context*) echo dev;; *) echo '{}'; echo '{}' >&2; exit 1;; esac"""
    )
    stand_ins.write(bin_folder, "kubectl", body.format(client + "}", "The connection was refused"))
    found = await find(machine, "kubernetes")
    assert (found.state, found.version, found.details["context"]) == ("broken", "1.32.4", "dev")
    assert "refused" in found.problem
    server = ', "serverVersion":{"gitVersion":"v1.31.0"}}'
    stand_ins.says(bin_folder, "kubectl", current_context="dev", version=client + server)
    found = await find(machine, "kubernetes")
    assert (found.state, found.details["server"]) == ("works", "1.31.0")


async def test_the_machine_is_read_from_what_the_kernel_says(machine):
    for name, text in {
        "proc/meminfo": "MemTotal:       16777216 kB\nMemAvailable:    8388608 kB\n",
        "proc/cpuinfo": "model name : Stand-in 9000\nphysical id : 0\nphysical id : 1\n",
        "etc/os-release": 'PRETTY_NAME="Site Linux 9"\n',
        "sys/fs/cgroup/memory.max": "4294967296\n",
    }.items():
        (machine.root / name).parent.mkdir(parents=True, exist_ok=True)
        (machine.root / name).write_text(text)
    known = (await discover(on(machine, PBS_JOBID="9.pbs"), ["machine"])).machine.details
    assert (known["memory_mb"], known["memory_limit_mb"]) == (16384, 4096)
    assert (known["system"], known["processor"], known["sockets"]) == (
        "Site Linux 9",
        "Stand-in 9000",
        2,
    )
    assert known["inside_job"] == "PBS job 9.pbs"


# Folders


async def test_folders_say_how_much_room_there_is_and_whether_runs_are_safe(machine, tmp_path):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    site = await discover(on(machine, PSCRATCH=str(scratch), OLDPWD="/"), ["folders"])
    found = {each.name: each for each in site.sections["file_systems"]}
    assert set(found) >= {"working directory, home", "runs", "$PSCRATCH"}
    assert not found["runs"].details["exists"], "what is not there yet is told of its place"
    known = found["$PSCRATCH"].details
    assert 0 <= known["free_bytes"] <= known["total_bytes"]
    assert known["writable"]


def test_a_network_file_system_is_safe_only_where_locks_reach():
    assert safety(FileSystem("ext4")) == SAFE
    assert safety(FileSystem("nfs4")) == SAFE
    assert safety(FileSystem("nfs", "/", frozenset({"nolock"}))) == REFUSED


def test_a_folder_that_is_not_there_is_looked_at_where_it_would_be(tmp_path):
    found = look_at(tmp_path / "a/b/c", "x")
    assert found.state == "works"
    assert found.details["exists"] is False


# The cache


def settings_of(machine: Machine, **more: str) -> Settings:
    environment = {**machine.environment, **more}
    return replace(Settings(), state_dir=machine.state_dir, environment=environment)


async def test_what_was_found_is_kept_for_a_while(machine, bin_folder):
    settings = settings_of(machine)
    first = await look(settings, timeout=PATIENT)
    stand_ins.podman(bin_folder)
    again = await look(settings, timeout=PATIENT)
    assert not first.cached
    assert again.cached
    assert again.looked == first.looked
    assert again.find("podman").state == "absent"
    assert replace(again, cached=False) == first, "nothing is lost on the way"
    fresh = await look(settings, refresh=True, timeout=PATIENT)
    assert fresh.find("podman").state == "works"
    old = await look(settings, max_age=0.0, timeout=PATIENT)
    assert not old.cached


async def test_other_surroundings_are_looked_at_again(machine):
    await look(settings_of(machine), timeout=PATIENT)
    other = await look(settings_of(machine, LMOD_CMD="/nowhere"), timeout=PATIENT)
    assert not other.cached


async def test_the_cache_is_private_and_a_damaged_one_counts_for_nothing(machine):
    settings = settings_of(machine)
    await look(settings, timeout=PATIENT)
    file = cache_file(machine.state_dir)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(machine.state_dir.stat().st_mode) == 0o700
    for text in ("", "[]", "{", '{"version": 1}', file.read_text()[:-40]):
        file.write_text(text)
        assert not (await look(settings, timeout=PATIENT)).cached


async def test_where_nothing_can_be_written_it_is_found_all_the_same(machine, tmp_path):
    (tmp_path / "file").touch()
    settings = replace(settings_of(machine), state_dir=tmp_path / "file" / "state")
    assert (await look(settings, timeout=PATIENT)).find("python").state == "works"


# The real ones here


@pytest.fixture
def here(tmp_path):
    return Machine(
        environment=dict(os.environ), timeout=PATIENT, state_dir=tmp_path, folder=tmp_path
    )


async def answer_of(*words: str) -> subprocess.CompletedProcess[bytes]:
    return await asyncio.to_thread(subprocess.run, words, capture_output=True, check=False)


async def test_the_real_docker_works_where_its_engine_answers(here):
    if shutil.which("docker") is None:
        pytest.skip("there is no docker here")
    answers = await answer_of("docker", "info")
    found = await find(here, "docker")
    engine = b"Server Version" in answers.stdout or b"graphDriverName" in answers.stdout
    assert found.state == ("works" if answers.returncode == 0 and engine else "broken")
    assert found.version


@pytest.mark.parametrize("name", ["podman", "buildah"])
async def test_the_real_podman_and_buildah_are_known(here, name):
    if shutil.which(name) is None:
        pytest.skip(f"there is no {name} here")
    answers = await answer_of(name, "info")
    found = await find(here, name)
    assert found.state == ("works" if answers.returncode == 0 else "broken")
    assert found.version


async def test_the_real_kubectl_is_a_client_only_without_a_cluster(here, tmp_path):
    if shutil.which("kubectl") is None:
        pytest.skip("there is no kubectl here")
    found = await find(on(here, KUBECONFIG=str(tmp_path / "none")), "kubernetes")
    assert found.state == "broken"
    assert found.version


async def test_the_real_sinfo_without_a_controller_is_broken(here, tmp_path):
    if shutil.which("sinfo") is None:
        pytest.skip("there is no Slurm here")
    impatient = replace(here, timeout=3.0)  # it tries for a minute
    found = await find(on(impatient, SLURM_CONF=str(tmp_path / "none.conf")), "slurm")
    assert found.state == "broken"
    assert found.problem


@pytest.mark.real
def test_a_real_slurm_has_its_partitions_and_node(here):
    with running_slurm() as running:
        place = on(here, **running.environment)
        found = asyncio.run(find(place, "slurm"))
        queues = {queue["name"]: queue for queue in found.details["queues"]}
        assert found.state == "works"
        assert found.version
        assert queues["debug"]["default"]
        assert queues["debug"]["time_limit"] is None
        assert queues["short"]["time_limit"] == 60
        assert queues["closed"]["state"] != "up"
        assert queues["debug"]["nodes"] == 1
        assert queues["debug"]["cores_per_node"]
        assert sum(group["count"] for group in found.details["nodes"]) == 1
        agree(found, asyncio.run(Slurm.of(place.environment).queues()))
        running.stop_controller()
        lost = asyncio.run(find(replace(place, timeout=5.0), "slurm"))
        assert lost.state == "broken"
        assert lost.problem


# The command, the tool, the text


def fractale(folder: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    kept = {k: v for k, v in os.environ.items() if k.startswith("COVERAGE_")}
    env = {**kept, "PATH": str(folder / "bin"), "HOME": str(folder), "LANG": "C.UTF-8", **variables}
    return forked.run(words, cwd=folder, env=env, timeout=240)


def test_the_command_gives_text_and_json_and_takes_one_section(tmp_path, bin_folder):
    stand_ins.slurm(bin_folder)
    told = fractale(tmp_path, "discover", "--timeout", "60")
    assert told.returncode == 0, told.stderr
    assert "✓ slurm 22.05.8" in told.stdout
    assert "batch *" in told.stdout
    assert "\x1b" not in told.stdout
    one = fractale(tmp_path, "discover", "schedulers", "--json")
    found = json.loads(one.stdout)
    assert list(found["sections"]) == ["schedulers"]
    assert found["cached"] is True
    wrong = fractale(tmp_path, "discover", "sheduler")
    assert wrong.returncode == 2
    assert "one of: machine" in wrong.stderr


def test_a_terminal_without_unicode_gets_letters_it_has(tmp_path, bin_folder):
    stand_ins.slurm(bin_folder)
    told = fractale(tmp_path, "discover", PYTHONIOENCODING="ascii", LANG="C")
    assert told.returncode == 0, told.stderr
    assert "ok slurm 22.05.8" in told.stdout


async def test_the_tool_tells_a_model_what_is_there(machine, run_plan, monkeypatch):
    registry = Path(__file__).parents[2] / "registries/site.yaml"
    monkeypatch.chdir(machine.folder)
    plan = """
        name: p
        steps:
          - {name: look, tool: discover_site, inputs: {sections: [schedulers, software]}}
          - name: wrong
            tool: discover_site
            inputs: {sections: [shedulers]}
            transitions: {failure: success}
        outputs: {found: "{{ steps.look.outputs }}"}
    """
    seen = await run_plan(plan, registries=[registry])
    found = seen.result.outputs["found"]
    assert {"slurm", "flux", "pbs", "lsf"} <= {
        *found["absent"],
        *(each["name"] for each in found["schedulers"]),
    }
    assert "python" in [each["name"] for each in found["software"]]
    assert "containers" not in found
    assert "unknown section `shedulers`" in json.dumps(seen.result.steps)


def test_a_site_is_shown_so_that_one_sees_what_there_is():
    assert_same("discover", "".join(plain(line) + "\n" for line in site_lines(SITE)))


def test_long_tables_are_cut_and_say_so():
    queues = [{**QUEUE, "name": f"q{number}", "time_limit": number} for number in range(40)]
    details = {"queues": queues, "inside_job": "7", "count": 9, "installed": list("abcdefghi")}
    finding = Finding(name="slurm", evidence="it answered", details=details)
    gpu = Finding(name="nvidia", details={"gpus": [{"name": "A100", "memory_mb": 40960}]})
    many = replace(SITE, cached=True, sections={"schedulers": (finding,), "gpus": (gpu,)})
    text = "\n".join(plain(line) for line in site_lines(many))
    assert "and 10 more (--json has all)" in text
    assert "q29" in text
    assert "q30" not in text
    assert "9 there: a, b, c, d, e, f, …" in text
    assert "A100  40 GB" in text
    assert "--refresh checks again" in text


def test_what_programs_say_is_inert():
    nasty = Finding(name="podman", state="broken", problem="\x1b[31mred\x07 \u202eback")
    lines = site_lines(replace(SITE, sections={"containers": (nasty,)}))
    text = "".join(plain(line) for line in lines)
    assert "\x1b" not in text
    assert "\x07" not in text
    assert "\u202e" not in text


QUEUE = {
    "name": "batch",
    "default": True,
    "state": "up",
    "time_limit": 172800,
    "nodes": 96,
    "nodes_idle": 80,
    "cores_per_node": 64,
    "memory_per_node_mb": 257000,
    "gpus_per_node": {"a100": 4},
}
FOLDER = {
    "exists": True,
    "file_system": "lustre",
    "network": True,
    "total_bytes": 2 * 10**15,
    "free_bytes": 5 * 10**14,
    "writable": True,
    "runs": SAFE,
}
SITE = Site(
    host="login1",
    looked=0.0,
    seconds=0.6,
    sections={
        "machine": (
            Finding(
                name="login1",
                details={
                    "system": "Site Linux 9",
                    "processor": "AMD EPYC 7763",
                    "cores": 128,
                    "cores_usable": 16,
                    "memory_mb": 515000,
                    "memory_limit_mb": 32768,
                },
            ),
        ),
        "gpus": (Finding(name="nvidia", state="absent"),),
        "schedulers": (
            Finding(
                name="slurm",
                version="23.11.4",
                evidence="sinfo answered",
                details={
                    "queues": [
                        QUEUE,
                        {**QUEUE, "name": "debug", "default": False, "time_limit": 1800},
                    ],
                    "nodes": [
                        {
                            "state": "idle",
                            "count": 80,
                            "names": "node[001-080]",
                            "cores_per_node": 64,
                            "memory_per_node_mb": 257000,
                            "gpus_per_node": {},
                        }
                    ],
                },
            ),
            Finding(name="flux", state="absent"),
            Finding(name="pbs", state="absent"),
        ),
        "containers": (
            Finding(
                name="docker",
                version="28.2.2",
                state="broken",
                problem="a client without an engine: Cannot connect to the Docker daemon at "
                "unix:///var/run/docker.sock. Is the docker daemon running?",
            ),
            Finding(
                name="podman",
                version="4.9.4",
                evidence="podman info answered",
                details={"storage": "overlay"},
            ),
        ),
        "file_systems": (
            Finding(name="$SCRATCH", path="/scratch/anna", details=FOLDER),
            Finding(
                name="home",
                state="broken",
                path="/home/anna",
                problem="it did not answer within 10 s",
            ),
        ),
    },
)
