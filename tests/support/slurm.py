"""A Slurm of the tests' own: munged, slurmctld and slurmd on loopback, in a temporary folder.

    with running_slurm() as slurm:
        subprocess.run(["sbatch", ...], env=slurm.environment)

One node of 8 CPUs (whatever the machine has), and these partitions:

- ``debug``: the default; any time.
- ``short``: a limit of 1 minute.
- ``closed``: down, so that jobs in it never start.

There is no accounting (``sacct`` does not answer): how a job ended stands in ``scontrol show job``
for `forget` seconds after its end, and then in the job-completion file.

    with running_cluster() as slurm:

has four nodes of 2 CPUs, `n1` to `n4`, accounting (slurmdbd and MariaDB, on loopback too), no
job-completion file, and these partitions:

- ``debug``: the default, 2 minutes unless asked otherwise, and any time.
- ``short``: a limit of 1 minute.
- ``low``: jobs of ``debug`` take their nodes away (preemption).
"""

from __future__ import annotations

import contextlib
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from servers.running import free_port

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol", "squeue", "scancel", "sinfo")
DATABASE = ("slurmdbd", "sacct", "sacctmgr", "mariadbd", "mariadb-install-db")
SYSTEM = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
PATIENCE = 60
NODE = "node1"
NODES = ("n1", "n2", "n3", "n4")

CONF = """\
ClusterName=fractale
SlurmctldHost=localhost(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire={credentials}
CredType=cred/munge
SlurmctldPort={ctld_port}
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
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
ReturnToService=2
SlurmctldTimeout=30
SlurmdTimeout=60
KillWait=2
MinJobAge={forget}
InactiveLimit=0
Waittime=0
"""

ONE_NODE = """\
JobCompType=jobcomp/filetxt
JobCompLoc={folder}/jobcomp.log
NodeName={nodes[0]} NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[0]} CPUs=8 RealMemory=4000
PartitionName=debug Nodes={nodes[0]} Default=YES MaxTime=INFINITE DefMemPerNode=100 State=UP
PartitionName=short Nodes={nodes[0]} MaxTime=1 DefMemPerNode=100 State=UP
PartitionName=closed Nodes={nodes[0]} MaxTime=INFINITE DefMemPerNode=100 State=DOWN
"""
PARTITIONS = """\
JobCompType=jobcomp/none
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={dbd_port}
AccountingStoragePass={folder}/munge.socket
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
PartitionName=debug Nodes=ALL Default=YES DefaultTime=2 MaxTime=INFINITE PriorityTier=10 \
DefMemPerNode=100 PreemptMode=OFF State=UP
PartitionName=short Nodes=ALL MaxTime=1 PriorityTier=10 DefMemPerNode=100 PreemptMode=OFF State=UP
PartitionName=low Nodes=ALL MaxTime=INFINITE PriorityTier=1 DefMemPerNode=100 State=UP
"""
ONE_OF_NODES = (
    "NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=2 RealMemory=1000\n"
)
DBD_CONF = """\
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort={dbd_port}
SlurmUser={user}
PidFile={folder}/slurmdbd.pid
LogFile={folder}/slurmdbd.log
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={database_port}
StorageUser=slurm
StoragePass={password}
StorageLoc=slurm
CommunicationParameters=NoInAddrAny
"""
DATABASE_USER = """\
CREATE USER 'slurm'@'%' IDENTIFIED BY '{password}';
GRANT ALL ON slurm.* TO 'slurm'@'%';
DELETE FROM mysql.global_priv WHERE User IN ('root', '');
FLUSH PRIVILEGES;
"""


def why_not(*, accounting: bool = False) -> str | None:
    """Why a Slurm cannot be started here; None where it can."""
    wanted = (*PROGRAMS, *(DATABASE if accounting else ()))
    missing = [name for name in wanted if shutil.which(name, path=SYSTEM) is None]
    if missing:
        packages = "slurm-wlm munge" + (" slurmdbd mariadb-server" if accounting else "")
        return f"no {', '.join(missing)} here: apt-get install {packages}"
    return None


@dataclass
class Slurm:
    """A running Slurm.

    `environment` is the whole environment for programs that are to reach it.
    """

    folder: Path
    environment: dict[str, str]
    completion_file: Path
    nodes: tuple[str, ...] = (NODE,)
    database_port: int = 0
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
        """Wait until its nodes take jobs."""
        nodes = f"slurmd-{self.nodes[0]}"
        self._until(lambda: set(self.run("sinfo", "-h", "-o", "%t").split()) == {"idle"}, nodes)

    def start_controller(self) -> None:
        """Start slurmctld, and wait until it answers."""
        self._start("slurmctld", "-D", "-f", str(self.folder / "slurm.conf"))
        self._until(lambda: "is UP" in self.run("scontrol", "ping", check=False), "slurmctld")

    def stop_controller(self) -> None:
        """End slurmctld as for a restart: it saves its state. Jobs go on."""
        self._end("slurmctld")

    def start(self) -> None:
        """Start all of it."""
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
        if self.database_port:
            self._start_database()
            self.start_accounting()
        self.start_controller()
        for node in self.nodes:
            words = ("slurmd", "-D", "-N", node, "-f", f"{f}/slurm.conf")
            self._start(*words, name=f"slurmd-{node}")
        self.wait_idle()

    def start_accounting(self) -> None:
        """Start slurmdbd, and wait until it answers."""
        self._start("slurmdbd", "-D", more={"SLURM_CONF": str(self.folder / "slurm.conf")})
        self._until(lambda: self._answers("sacctmgr", "-n", "show", "cluster"), "slurmdbd")
        # Accounts exist for a cluster that is registered.
        self.run("sacctmgr", "-i", "add", "cluster", "fractale", check=False)

    def stop_accounting(self) -> None:
        """End slurmdbd: `sacct` does not answer; the controller keeps what it has to tell it."""
        self._end("slurmdbd")

    def _answers(self, *words: str) -> bool:
        done = subprocess.run(
            words, env=self.environment, capture_output=True, timeout=60, check=False
        )
        return done.returncode == 0

    def _start_database(self) -> None:
        data = self.folder / "database"
        user = f"--user={pwd.getpwuid(os.getuid()).pw_name}"
        made = subprocess.run(
            [
                shutil.which("mariadb-install-db", path=SYSTEM) or "mariadb-install-db",
                "--no-defaults",
                f"--datadir={data}",
                "--auth-root-authentication-method=normal",
                "--skip-test-db",
                user,
            ],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        if made.returncode != 0:
            raise AssertionError(f"no database was made: {made.stdout[-1000:]}{made.stderr}")
        self._start(
            "mariadbd",
            "--no-defaults",
            f"--datadir={data}",
            "--bind-address=127.0.0.1",
            f"--port={self.database_port}",
            f"--socket={self.folder}/database.socket",
            f"--pid-file={self.folder}/mariadbd.pid",
            f"--init-file={self.folder}/database.sql",
            "--innodb-buffer-pool-size=32M",
            user,
        )
        self._until(lambda: _listens(self.database_port), "mariadbd")

    def end(self) -> None:
        """End its jobs and daemons, each by its own pid."""
        if "slurmctld" in self._daemons:
            with contextlib.suppress(AssertionError, subprocess.TimeoutExpired):
                running = self.run("squeue", "-h", "-o", "%A").split()
                for native_id in running:
                    self.run("scancel", native_id, check=False)
                self._until(lambda: not self.run("squeue", "-h", "-o", "%A").split(), "scancel")
        nodes = [f"slurmd-{node}" for node in self.nodes]
        for name in (*nodes, "slurmctld", "slurmdbd", "mariadbd", "munged"):
            self._end(name)

    def _start(
        self, program: str, *words: str, name: str = "", more: dict[str, str] | None = None
    ) -> None:
        name = name or program
        with (self.folder / f"{name}.out").open("ab") as said:
            self._daemons[name] = subprocess.Popen(
                [shutil.which(program, path=SYSTEM) or program, *words],
                env={**self.environment, **(more or {})},
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


def _listens(port: int) -> bool:
    with socket.socket() as asked:
        return asked.connect_ex(("127.0.0.1", port)) == 0


@contextlib.contextmanager
def running_slurm(
    *, forget: int = 300, gather: str = "none", credentials: int = 120
) -> Iterator[Slurm]:
    """Start a Slurm of one node and end it; the test is skipped where there is none.

    Args:
        forget: Seconds after which the controller forgets an ended job.
        gather: ``linux`` watches the memory of jobs, and ends those that take more than they
            asked for.
        credentials: Seconds for which those of a job hold; one that is requeued waits that long.
    """
    if reason := why_not():
        pytest.skip(reason)
    with _running(
        ONE_NODE, (NODE,), forget=forget, gather=gather, credentials=credentials
    ) as slurm:
        yield slurm


@contextlib.contextmanager
def running_cluster(*, forget: int = 300, most: int = 1001) -> Iterator[Slurm]:
    """Start a Slurm of four nodes with accounting and end it; skipped where there is none.

    Args:
        forget: Seconds after which the controller forgets an ended job.
        most: ``MaxArraySize``.
    """
    if reason := why_not(accounting=True):
        pytest.skip(reason)
    more = f"MaxArraySize={most}\n" + PARTITIONS
    with _running(more, NODES, forget=forget, gather="none", credentials=10) as slurm:
        yield slurm


@contextlib.contextmanager
def _running(
    more: str, nodes: tuple[str, ...], *, forget: int, gather: str, credentials: int
) -> Iterator[Slurm]:
    # Not under the test's own folder: a socket's path must be short.
    folder = Path(tempfile.mkdtemp(prefix="fractale-slurm-"))
    (folder / "state").mkdir()
    (folder / "spool").mkdir()
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o600)
    facts = {
        "folder": folder,
        "user": pwd.getpwuid(os.getuid()).pw_name,
        "host": os.uname().nodename.split(".")[0],
        "nodes": nodes,
        "ports": [free_port() for _ in nodes],
        "ctld_port": free_port(),
        "dbd_port": free_port(),
        "database_port": free_port(),
        "password": secrets.token_hex(16),
        "forget": forget,
        "gather": gather,
        "credentials": credentials,
    }
    lines = [] if len(nodes) == 1 else _node_lines(facts)
    (folder / "slurm.conf").write_text(
        "".join([CONF.format(**facts), *lines, more.format(**facts)])
    )
    environment = {
        "PATH": f"{Path(shutil.which('python3') or '/usr/bin/python3').parent}:{SYSTEM}",
        "HOME": str(Path.home()),
        "SLURM_CONF": str(folder / "slurm.conf"),
    }
    slurm = Slurm(folder, environment, folder / "jobcomp.log", nodes)
    if lines:
        slurm.database_port = facts["database_port"]
        _write_private(folder / "slurmdbd.conf", DBD_CONF.format(**facts))
        _write_private(folder / "database.sql", DATABASE_USER.format(**facts))
    try:
        slurm.start()
        yield slurm
    finally:
        slurm.end()
        shutil.rmtree(folder, ignore_errors=True)


def _node_lines(facts: dict) -> list[str]:
    pairs = zip(facts["nodes"], facts["ports"], strict=True)
    return [ONE_OF_NODES.format(node=node, port=port, **facts) for node, port in pairs]


def _write_private(path: Path, text: str) -> None:
    path.touch(mode=0o600)
    path.write_text(text)
