"""A Slurm of the tests' own: munged, slurmctld and slurmd on loopback, in a temporary folder.

    with running_slurm() as slurm:
        subprocess.run(["sbatch", ...], env=slurm.environment)

One node of 8 CPUs (whatever the machine has), and these partitions:

- ``debug``: the default; any time.
- ``short``: a limit of 1 minute.
- ``closed``: down, so that jobs in it never start.

There is no accounting (``sacct`` does not answer): how a job ended stands in ``scontrol show job``
for `forget` seconds after its end, and then in the job-completion file.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from servers.running import free_port

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol", "squeue", "scancel", "sinfo")
SYSTEM = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
PATIENCE = 60
NODE = "node1"

CONF = """\
ClusterName=fractale
SlurmctldHost=localhost(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire={credentials}
CredType=cred/munge
SlurmctldPort={ctld_port}
SlurmdPort={slurmd_port}
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/{gather}
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SlurmdParameters=config_overrides
SchedulerParameters=batch_sched_delay=0,sched_min_interval=100000
JobCompType=jobcomp/filetxt
JobCompLoc={folder}/jobcomp.log
ReturnToService=2
SlurmctldTimeout=30
SlurmdTimeout=60
KillWait=2
MinJobAge={forget}
InactiveLimit=0
Waittime=0
NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 CPUs=8 RealMemory=4000 State=UNKNOWN
PartitionName=debug Nodes={node} Default=YES MaxTime=INFINITE DefMemPerNode=100 State=UP
PartitionName=short Nodes={node} MaxTime=1 DefMemPerNode=100 State=UP
PartitionName=closed Nodes={node} MaxTime=INFINITE DefMemPerNode=100 State=DOWN
"""


def why_not() -> str | None:
    """Why a Slurm cannot be started here; None where it can."""
    missing = [name for name in PROGRAMS if shutil.which(name, path=SYSTEM) is None]
    if missing:
        return f"no {', '.join(missing)} here: apt-get install slurm-wlm munge"
    return None


@dataclass
class Slurm:
    """A running Slurm.

    `environment` is the whole environment for programs that are to reach it.
    """

    folder: Path
    environment: dict[str, str]
    completion_file: Path
    _daemons: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def run(self, *words: str, check: bool = True) -> str:
        """What one of its programs writes to stdout."""
        done = subprocess.run(
            words, env=self.environment, capture_output=True, text=True, timeout=60, check=False
        )
        if check and done.returncode != 0:
            raise AssertionError(f"{words} said {done.stderr}")
        return done.stdout

    def job(self, native_id: str) -> dict[str, str]:
        """What ``scontrol show job`` says; nothing for a job that it does not know."""
        said = self.run("scontrol", "-o", "show", "job", native_id, check=False)
        return dict(word.split("=", 1) for word in said.split() if "=" in word)

    def jobs(self) -> list[str]:
        """The ids of all jobs that the controller still knows, ended ones too."""
        return self.run("squeue", "-h", "-t", "all", "-o", "%A").split()

    def wait_idle(self) -> None:
        """Wait until its node takes jobs."""
        self._until(lambda: self.run("sinfo", "-h", "-o", "%t").split()[:1] == ["idle"], "slurmd")

    def start_controller(self) -> None:
        """Start slurmctld, and wait until it answers."""
        self._start("slurmctld", "-D", "-f", str(self.folder / "slurm.conf"))
        self._until(lambda: "is UP" in self.run("scontrol", "ping", check=False), "slurmctld")

    def stop_controller(self) -> None:
        """End slurmctld as for a restart: it saves its state. Jobs go on."""
        self._end("slurmctld")

    def start(self) -> None:
        """Start all three."""
        f = self.folder
        self._start(
            "munged",
            "--foreground",
            "--force",
            f"--socket={f}/munge.socket",
            f"--key-file={f}/munge.key",
            f"--pid-file={f}/munged.pid",
            f"--seed-file={f}/munge.seed",
            f"--log-file={f}/munged.log",
        )
        self._until((f / "munge.socket").exists, "munged")
        self.start_controller()
        self._start("slurmd", "-D", "-N", NODE, "-f", f"{f}/slurm.conf")
        self.wait_idle()

    def end(self) -> None:
        """End its jobs and daemons, each by its own pid."""
        if "slurmctld" in self._daemons:
            with contextlib.suppress(AssertionError, subprocess.TimeoutExpired):
                running = self.run("squeue", "-h", "-o", "%A").split()
                for native_id in running:
                    self.run("scancel", native_id, check=False)
                self._until(lambda: not self.run("squeue", "-h", "-o", "%A").split(), "scancel")
        for name in ("slurmd", "slurmctld", "munged"):
            self._end(name)

    def _start(self, program: str, *words: str) -> None:
        with (self.folder / f"{program}.out").open("ab") as said:
            self._daemons[program] = subprocess.Popen(
                [shutil.which(program, path=SYSTEM) or program, *words],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                start_new_session=True,
            )

    def _end(self, name: str) -> None:
        daemon = self._daemons.pop(name, None)
        if daemon is None:
            return
        daemon.send_signal(signal.SIGTERM)
        try:
            daemon.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()

    def _until(self, true, what: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while not true():
            for name, daemon in self._daemons.items():
                if daemon.poll() is not None:
                    raise AssertionError(f"{name} ended: {self._said(name)}")
            if time.monotonic() > deadline:
                raise AssertionError(f"{what} was not ready: {self._said(what)}")
            time.sleep(0.05)

    def _said(self, name: str) -> str:
        files = [self.folder / f"{name}.{end}" for end in ("out", "log")]
        return "\n".join(each.read_text()[-2000:] for each in files if each.exists())


@contextlib.contextmanager
def running_slurm(
    *, forget: int = 300, gather: str = "none", credentials: int = 120
) -> Iterator[Slurm]:
    """Start a Slurm and end it; the test is skipped where there is none.

    Args:
        forget: Seconds after which the controller forgets an ended job.
        gather: ``linux`` watches the memory of jobs, and ends those that take more than they
            asked for.
        credentials: Seconds for which those of a job hold; one that is requeued waits that long.
    """
    if reason := why_not():
        pytest.skip(reason)
    # Not under the test's own folder: a socket's path must be short.
    folder = Path(tempfile.mkdtemp(prefix="fractale-slurm-"))
    user = pwd.getpwuid(os.getuid()).pw_name
    (folder / "state").mkdir()
    (folder / "spool").mkdir()
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o600)
    (folder / "slurm.conf").write_text(
        CONF.format(
            folder=folder,
            user=user,
            host=os.uname().nodename.split(".")[0],
            node=NODE,
            ctld_port=free_port(),
            slurmd_port=free_port(),
            forget=forget,
            gather=gather,
            credentials=credentials,
        )
    )
    environment = {
        "PATH": f"{Path(shutil.which('python3') or '/usr/bin/python3').parent}:{SYSTEM}",
        "HOME": str(Path.home()),
        "SLURM_CONF": str(folder / "slurm.conf"),
    }
    slurm = Slurm(folder, environment, folder / "jobcomp.log")
    try:
        slurm.start()
        yield slurm
    finally:
        slurm.end()
        shutil.rmtree(folder, ignore_errors=True)
