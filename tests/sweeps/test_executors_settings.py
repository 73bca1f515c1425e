"""`executors` in the settings: their form, whose they are, and what `--on` says of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from fractale.errors import SettingsError, UsageError
from fractale.settings import Settings, UntrustedProject, load_settings
from fractale.settings.executors import (
    DEFAULT_PORTS,
    LAUNCHERS,
    OF_JOBS,
    PROVIDERS,
    ExecutorSettings,
    parse_executors,
)
from fractale.sweeps.executors import executor_settings
from fractale.sweeps.parsl_executor import BlockLog, address_of, environment_of_runs
from fractale.sweeps.parsl_provider import LAUNCHERS as OF_PARSL
from fractale.sweeps.parsl_provider import provider_of, walltime

CLUSTER = {
    "provider": "slurm",
    "nodes": 2,
    "blocks": 3,
    "walltime": "4h",
    "workers_per_node": 16,
    "cores_per_worker": 2,
    "partition": "batch",
    "account": "p1",
    "qos": "normal",
    "constraint": "cpu&fast",
    "worker_init": ["module load python", "export A=1"],
    "scheduler_options": "#SBATCH --mem=4G",
    "address": "10.0.0.7",
    "ports": "50000-50010",
    "encrypted": True,
}


def parsed(entry: object, name: str = "cluster") -> ExecutorSettings:
    return parse_executors({name: (entry, "config.yaml")})[name]


def test_an_entry_describes_blocks():
    found = parsed(CLUSTER)
    assert (found.walltime, found.driver_walltime) == (4 * 3600, 4 * 3600)
    assert (found.workers_per_block, found.workers) == (32, 96)
    assert found.launcher == "srun"
    assert found.worker_init == "module load python\nexport A=1"
    assert found.ports == (50000, 50010)
    assert found.summary == "slurm batch: 3 x 2 nodes x 16 workers"
    small = parsed({"provider": "pbspro", "queue": "q", "walltime": "1:30:00"})
    assert (small.nodes, small.blocks, small.workers, small.launcher) == (1, 1, 1, "none")
    assert (small.walltime, small.ports) == (5400, DEFAULT_PORTS)


@pytest.mark.parametrize(
    ("entry", "says", "hint"),
    [
        ("slurm", "must be a mapping with `provider`", "provider: slurm"),
        ({"nodes": 2}, "`provider` is missing", "slurm"),
        ({"provider": "slrum"}, "unknown provider `slrum`", "did you mean `slurm`"),
        ({"provider": "flux"}, "Parsl has no provider for Flux", "--on local"),
        ({"provider": "slurm", "wall_time": "4h"}, "no key `wall_time`", "walltime"),
        ({"provider": "pbspro", "partition": "a"}, "`pbspro` has no key `partition`", "queue"),
        ({"provider": "local", "walltime": "4h"}, "`local` has no key `walltime`", ""),
        ({"provider": "slurm", "nodes": 0}, "`nodes` must be a whole number above 0", ""),
        ({"provider": "slurm", "blocks": True}, "`blocks` must be a whole number", ""),
        ({"provider": "slurm", "walltime": "1:30"}, "`walltime` must be a time", "1:00:00"),
        ({"provider": "slurm", "walltime": "30s"}, "a minute or more", ""),
        ({"provider": "slurm", "partition": "a b"}, "without spaces", ""),
        ({"provider": "slurm", "account": "a\n#SBATCH -N 9"}, "without spaces", ""),
        ({"provider": "slurm", "account": "$(id)"}, "without spaces", ""),
        ({"provider": "slurm", "worker_init": 3}, "must be a text, or a list of lines", ""),
        ({"provider": "slurm", "launcher": "srn"}, "unknown launcher `srn`", "`srun`"),
        ({"provider": "slurm", "address": "0.0.0.0"}, "not `0.0.0.0` for all of them", ""),
        ({"provider": "slurm", "address": "a b"}, "must be an IP address or the name", ""),
        ({"provider": "local", "address": "10.0.0.7"}, "uses 127.0.0.1", ""),
        ({"provider": "slurm", "ports": "80"}, "ports from 1024 to 65535", "54000-54999"),
        ({"provider": "slurm", "ports": "5000-4000"}, "ports from 1024 to 65535", ""),
        ({"provider": "slurm", "encrypted": False}, "`encrypted` must be true", ""),
        ({"provider": "slurm", "exclusive": "no"}, "must be true or false", ""),
        ({"provider": "kubernetes"}, "needs `image`", ""),
        ({"provider": "kubernetes", "image": "a", "volumes": ["x"]}, "mapping of claims", ""),
    ],
)
def test_a_wrong_entry_says_what_where_and_what_next(entry, says, hint):
    with pytest.raises(SettingsError) as caught:
        parsed(entry)
    assert "config.yaml: `executors.cluster`" in str(caught.value)
    assert says in str(caught.value)
    assert hint in (caught.value.hint or "")


@pytest.mark.parametrize("name", ["local", "a b", "-x", "1", "x" * 41])
def test_a_name_of_an_executor_is_one_word_and_not_local(name):
    with pytest.raises(SettingsError, match="executor"):
        parsed({"provider": "slurm"}, name)


def test_every_provider_and_launcher_is_one_of_parsls():
    import parsl.launchers

    assert set(OF_PARSL) == set(LAUNCHERS)
    assert all(hasattr(parsl.launchers, name) for name in OF_PARSL.values())


@pytest.mark.parametrize("provider", sorted(set(PROVIDERS) - {"kubernetes"}))
def test_every_key_reaches_parsls_provider(provider, tmp_path):
    # No scheduler is there: Slurm's provider then asks squeue.
    words = {key: "w1" for key in PROVIDERS[provider] if key != "exclusive"}
    jobs = {"walltime": "2h", "scheduler_options": "#OPT x"} if provider != "local" else {}
    entry = {"provider": provider, "worker_init": "true", **words, **(jobs if OF_JOBS else {})}
    made = provider_of(parsed(entry), tmp_path, {"PATH": "/nowhere"})
    assert made.label in ("local", "slurm", "pbspro", "torque", "lsf", "LSF")
    for key, value in words.items():
        name = "project" if (provider, key) == ("lsf", "account") else key
        said = f"{getattr(made, name, '')} {made.scheduler_options}"
        assert value in said, key
    if jobs:
        assert made.walltime == "02:00:00"
        assert "#OPT x" in made.scheduler_options
    assert made.script_dir == str(tmp_path)


def test_programs_of_slurm_get_no_secret_and_nothing_of_the_job_around(tmp_path):
    given = {
        "PATH": "/nowhere",  # no real Slurm is asked
        "SLURM_CONF": "/etc/slurm.conf",
        "SLURM_JOB_ID": "1",
        "SBATCH_PARTITION": "x",
        "MODULEPATH": "/m",
    }
    made = provider_of(parsed({"provider": "slurm"}), tmp_path, given)
    code, said, _ = made.execute_wait("/usr/bin/env")
    names = {line.partition("=")[0] for line in said.splitlines()}
    assert code == 0
    assert {"SLURM_CONF", "MODULEPATH"} <= names
    assert not names & {"SLURM_JOB_ID", "SBATCH_PARTITION"}


def test_runs_get_the_settings_and_keys_of_the_driver_and_nothing_else():
    environment = {
        "PATH": "/bin",
        "OPENAI_API_KEY": "sk-123456789",
        "OPENAI_BASE_URL": "https://models.site.example",
        "FRACTALE_INPUT_TOKEN": "t0ps3cret",
        "FRACTALE_POLL_SECONDS": "5",
        "SLURM_JWT": "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIx.c2lnbmF0dXJl",
        "SITE_PASSWORD": "hunter2hunter2",
    }
    found = environment_of_runs(replace(Settings(), environment=environment))
    decided = {"FRACTALE_TRUST_PROJECT"}  # of the process: see conftest.py
    assert set(found) == (set(environment) - {"PATH", "SLURM_JWT"}) | decided


def test_the_address_is_one_of_the_machine_and_never_all():
    assert address_of(parsed({"provider": "local"})) == "127.0.0.1"
    assert address_of(parsed({"provider": "slurm", "address": "127.0.0.1"})) == "127.0.0.1"
    # An address of documentation, which no machine has.
    elsewhere = parsed({"provider": "slurm", "address": "192.0.2.1"})
    with pytest.raises(SettingsError, match="does not have the address 192") as caught:
        address_of(elsewhere)
    try:
        own = address_of(elsewhere, detached=True)
    except SettingsError as error:
        assert "has only the address 127." in str(error)  # this machine's name  # noqa: PT017
    else:
        assert own != "192.0.2.1"
    with pytest.raises(SettingsError, match="has no address") as caught:
        address_of(parsed({"provider": "slurm", "address": "no-such-host.invalid"}))
    assert "set `address`" in str(caught.value.hint)


def test_walltimes_are_written_as_parsl_reads_them():
    assert walltime(4 * 3600) == "04:00:00"
    assert walltime(90061) == "25:01:01"


def test_blocks_that_did_not_end_are_found_again(tmp_path):
    log = BlockLog(tmp_path / "blocks.jsonl")
    assert log.left_over() == []
    log.submitted("0", "41")
    log.submitted("1", "42")
    log.over("41")
    with (tmp_path / "blocks.jsonl").open("ab") as file:
        file.write(b'{"block": "2", "jo')  # a crash cut the line
    log.submitted("3", "43")
    assert BlockLog(tmp_path / "blocks.jsonl").left_over() == ["42", "43"]
    assert log.token == BlockLog(tmp_path / "blocks.jsonl").token


# -- whose they are --------------------------------------------------------------------------------


def written(folder: Path, name: str, entry: object) -> Path:
    path = folder / "config.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump({"executors": {name: entry}}))
    return path


@pytest.fixture
def home(tmp_path) -> dict[str, str]:
    written(tmp_path / "config" / "fractale", "cluster", CLUSTER)
    return {"XDG_CONFIG_HOME": str(tmp_path / "config"), "HOME": str(tmp_path)}


def test_a_projects_executor_needs_trust_and_the_users_does_not(tmp_path, home):
    project = tmp_path / "project"
    written(project / ".fractale", "theirs", {"provider": "slurm", "worker_init": "rm -rf x"})
    with pytest.raises(UntrustedProject) as caught:
        load_settings({**home, "FRACTALE_TRUST_PROJECT": ""}, project)
    (waits,) = caught.value.waiting
    assert waits.key == "executors.theirs"
    assert "rm -rf x" in waits.value
    assert "runs these shell commands" in waits.effect
    narrow = load_settings({**home, "FRACTALE_TRUST_PROJECT": "0"}, project)
    assert list(narrow.executors) == ["cluster"]
    with pytest.raises(UsageError, match="which you have not trusted") as refused:
        executor_settings(narrow, "theirs")
    assert "fractale trust" in str(refused.value.hint)
    both = load_settings({**home, "FRACTALE_TRUST_PROJECT": "1"}, project)
    assert list(both.executors) == ["cluster", "theirs"]
    assert executor_settings(both, "theirs") == both.executors["theirs"]


def test_an_unknown_executor_is_answered_with_the_nearest(tmp_path, home):
    settings = load_settings(home, tmp_path)
    assert executor_settings(settings, "local") is None
    with pytest.raises(UsageError, match="unknown executor `clustr`") as caught:
        executor_settings(settings, "clustr")
    assert "did you mean `cluster`" in str(caught.value.hint)
