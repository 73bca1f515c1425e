"""Executors in the settings: where the runs of sweeps happen besides this machine, by name.

One entry describes *blocks*. A block is one job of a scheduler, in which workers perform runs, one
after another::

    executors:
      cluster:
        provider: slurm
        nodes: 2                # of each block
        blocks: 4               # at a time, at most
        walltime: 4h            # of each block
        workers_per_node: 16
        partition: batch
        worker_init: module load python
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any, Final, cast

from fractale.durations import parse_duration
from fractale.errors import SettingsError
from fractale.text import did_you_mean, listing

LOCAL: Final = "local"
"""The executor that needs no settings: processes of this machine."""

NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,39}")

LOOPBACK: Final = "127.0.0.1"
DEFAULT_PORTS: Final = (54000, 54999)
DEFAULT_WALLTIME: Final = 3600.0
SHORTEST_WALLTIME: Final = 60.0

QUEUES: Final = ("queue", "account")
PROVIDERS: Final[Mapping[str, tuple[str, ...]]] = {
    "slurm": ("partition", "account", "qos", "constraint", "exclusive"),
    "pbspro": QUEUES,
    "torque": QUEUES,
    "lsf": QUEUES,
    "kubernetes": ("image", "namespace", "volumes"),
    "local": (),
}
"""Provider → the keys that only some providers have."""

OF_JOBS: Final = ("walltime", "driver_walltime", "scheduler_options", "launcher")
"""Keys of the providers that submit batch jobs, which are all but ``local`` and ``kubernetes``."""

KEYS: Final = (
    "provider",
    "nodes",
    "blocks",
    "workers_per_node",
    "cores_per_worker",
    "worker_init",
    "python",
    "address",
    "ports",
    "encrypted",
)
"""Keys of every provider."""

LAUNCHERS: Final = ("none", "single_node", "srun", "mpiexec", "mpirun", "aprun", "jsrun")
"""How a block starts its worker pool on each of its nodes. ``none``: on the first node only."""

MULTI_NODE: Final[Mapping[str, str]] = {
    "slurm": "srun",
    "pbspro": "mpiexec",
    "torque": "mpiexec",
    "lsf": "jsrun",
}
"""The launcher of blocks of several nodes, unless the settings name one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutorSettings:
    """One entry of `executors`.

    Args:
        provider: One of `PROVIDERS`: which scheduler the blocks are jobs of.
        nodes: Nodes of each block.
        blocks: How many blocks there are at a time, at most.
        walltime: Seconds that each block may take.
        driver_walltime: Seconds that the driver's own job may take, with ``--detach``.
        workers_per_node: How many runs a node performs at a time.
        cores_per_worker: Cores that a block asks for, for each worker; None asks for none.
        partition, queue, account, qos, constraint: As the scheduler names them.
        exclusive: Whether the blocks' nodes are shared with no other job.
        image, namespace, volumes: Of a Kubernetes pod; `volumes` are names of claims and where
            they are mounted.
        scheduler_options: Further lines of directives, such as ``#SBATCH --gpus=1``.
        worker_init: Shell commands that a block runs before its workers start.
        python: The Python that has fractale and Parsl on the nodes; None: that of the driver.
        launcher: One of `LAUNCHERS`.
        address: The address of the driver's machine that the nodes reach; None: the one that the
            machine's name has.
        ports: The lowest and the highest port on which the driver's machine awaits workers.
    """

    name: str
    provider: str
    nodes: int = 1
    blocks: int = 1
    walltime: float = DEFAULT_WALLTIME
    driver_walltime: float = DEFAULT_WALLTIME
    workers_per_node: int = 1
    cores_per_worker: int | None = None
    partition: str | None = None
    queue: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    exclusive: bool = False
    image: str | None = None
    namespace: str | None = None
    volumes: tuple[tuple[str, str], ...] = ()
    scheduler_options: str = ""
    worker_init: str = ""
    python: str | None = None
    launcher: str = "none"
    address: str | None = None
    ports: tuple[int, int] = DEFAULT_PORTS
    origin: str = ""

    @property
    def workers(self) -> int:
        """How many runs it performs at a time, at most."""
        return self.blocks * self.workers_per_block

    @property
    def workers_per_block(self) -> int:
        return self.nodes * self.workers_per_node

    @property
    def summary(self) -> str:
        """The entry as a line for people, without its shell commands."""
        size = f"{self.blocks} x {self.nodes} nodes x {self.workers_per_node} workers"
        place = self.partition or self.queue or self.namespace
        return f"{self.provider}{f' {place}' if place else ''}: {size}"


def parse_executors(
    entries: Mapping[str, tuple[Any, str]],
) -> dict[str, ExecutorSettings]:
    """The entries of `executors`.

    Args:
        entries: Name → the entry, and the file that has it.

    Raises:
        SettingsError: A name or an entry does not have its form.
    """
    return {name: _executor(str(name), entry, path) for name, (entry, path) in entries.items()}


def _executor(name: str, entry: Any, origin: str) -> ExecutorSettings:
    where = f"{origin}: `executors.{name}`"
    if name == LOCAL:
        raise SettingsError(
            f"{where}: `{LOCAL}` is the executor of this machine, and has no settings",
            hint="choose another name; `local_cores` sets how many processes `local` has",
        )
    if not NAME.fullmatch(name):
        raise SettingsError(
            f"{where}: the name of an executor has up to 40 letters, digits, `-` and `_`, and "
            "begins with a letter"
        )
    data = _checked(entry, where)
    provider = str(data["provider"])
    nodes = _whole(data, "nodes", 1, where)
    walltime = _walltime(data, "walltime", DEFAULT_WALLTIME, where)
    return ExecutorSettings(
        name=name,
        provider=provider,
        nodes=nodes,
        blocks=_whole(data, "blocks", 1, where),
        walltime=walltime,
        driver_walltime=_walltime(data, "driver_walltime", walltime, where),
        workers_per_node=_whole(data, "workers_per_node", 1, where),
        cores_per_worker=_whole(data, "cores_per_worker", 1, where)
        if data.get("cores_per_worker") is not None
        else None,
        partition=_word(data, "partition", where),
        queue=_word(data, "queue", where),
        account=_word(data, "account", where),
        qos=_word(data, "qos", where),
        constraint=_word(data, "constraint", where),
        exclusive=_flag(data, "exclusive", where),
        image=_image(data, provider, where),
        namespace=_word(data, "namespace", where),
        volumes=_volumes(data.get("volumes"), where),
        scheduler_options=_text(data, "scheduler_options", where),
        worker_init=_text(data, "worker_init", where),
        python=_word(data, "python", where),
        launcher=_launcher(data, provider, nodes, where),
        address=_address(data, provider, where),
        ports=_ports(data.get("ports"), where),
        origin=origin,
    )


def _checked(entry: Any, where: str) -> Mapping[str, Any]:
    """An entry whose keys are known, and are those of its provider.

    Raises:
        SettingsError: They are not.
    """
    if not isinstance(entry, dict):
        raise SettingsError(
            f"{where} must be a mapping with `provider`",
            hint="such as `{provider: slurm, nodes: 2, walltime: 4h, workers_per_node: 16}`",
        )
    data = {str(key): value for key, value in cast("dict[Any, Any]", entry).items()}
    provider = _provider(data.get("provider"), where)
    own = PROVIDERS[provider] + (() if provider in ("local", "kubernetes") else OF_JOBS)
    known = (*KEYS, *own)
    for key in data:
        if key not in known:
            hint = did_you_mean(key, known, otherwise=f"one of: {', '.join(known)}")
            raise SettingsError(f"{where}: provider `{provider}` has no key `{key}`", hint=hint)
    if data.get("encrypted", True) is not True:
        raise SettingsError(
            f"{where}: `encrypted` must be true; fractale starts no workers that talk in clear text"
        )
    return data


def _provider(value: Any, where: str) -> str:
    names = tuple(PROVIDERS)
    if value == "flux":
        raise SettingsError(
            f"{where}: provider `flux` is not supported: Parsl has no provider for Flux",
            hint=f"start the sweep inside a Flux job with `--on local`, or use {listing(names)}",
        )
    if not isinstance(value, str) or value not in PROVIDERS:
        known = f"use {listing(names)}"
        said = f"unknown provider `{value}`" if value is not None else "`provider` is missing"
        hint = did_you_mean(str(value), names, otherwise=known)
        raise SettingsError(f"{where}: {said}", hint=hint)
    return value


def _whole(data: Mapping[str, Any], key: str, default: int, where: str) -> int:
    value = data.get(key, default)
    if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
        return value
    raise SettingsError(f"{where}: `{key}` must be a whole number above 0, not `{value}`")


def _flag(data: Mapping[str, Any], key: str, where: str) -> bool:
    value = data.get(key, False)
    if isinstance(value, bool):
        return value
    raise SettingsError(f"{where}: `{key}` must be true or false, not `{value}`")


def _walltime(data: Mapping[str, Any], key: str, default: float, where: str) -> float:
    value = data.get(key)
    if value is None:
        return default
    try:
        seconds = parse_duration(str(value))
    except ValueError:
        seconds = 0.0
    # YAML 1.1 reads 1:00:00 as 3600; a number is seconds, so that both mean the same.
    if seconds >= SHORTEST_WALLTIME and not isinstance(value, bool):
        return seconds
    raise SettingsError(
        f"{where}: `{key}` must be a time of a minute or more, not `{value}`",
        hint=f"such as `{key}: 4h` or `{key}: 1:00:00`",
    )


def _word(data: Mapping[str, Any], key: str, where: str) -> str | None:
    """A text without spaces, which stays one word of a directive or a command."""
    value = data.get(key)
    if value is None:
        return None
    text = str(value)
    if isinstance(value, str | int) and re.fullmatch(r"[A-Za-z0-9_./:@%+=,&|*\[\]-]+", text):
        return text
    raise SettingsError(f"{where}: `{key}` must be a name without spaces or quotes, not `{value}`")


def _text(data: Mapping[str, Any], key: str, where: str) -> str:
    value = data.get(key)
    if value is None:
        return ""
    lines = cast("list[Any]", value) if isinstance(value, list) else [value]
    if all(isinstance(line, str) for line in lines):
        return "\n".join(str(line) for line in lines).strip()
    raise SettingsError(f"{where}: `{key}` must be a text, or a list of lines")


def _image(data: Mapping[str, Any], provider: str, where: str) -> str | None:
    image = _word(data, "image", where)
    if provider == "kubernetes" and image is None:
        raise SettingsError(
            f"{where}: provider `kubernetes` needs `image`: one that has fractale and Parsl"
        )
    return image


def _volumes(value: Any, where: str) -> tuple[tuple[str, str], ...]:
    if value is None:
        return ()
    if isinstance(value, dict):
        table = cast("dict[Any, Any]", value)
        pairs = tuple((str(claim), str(path)) for claim, path in table.items())
        if all(path.startswith("/") for _, path in pairs):
            return pairs
    raise SettingsError(
        f"{where}: `volumes` must be a mapping of claims to absolute paths",
        hint="such as `volumes: {my-claim: /shared}`",
    )


def _launcher(data: Mapping[str, Any], provider: str, nodes: int, where: str) -> str:
    value = data.get("launcher")
    if value is None:
        return "none" if nodes == 1 else MULTI_NODE.get(provider, "single_node")
    if value in LAUNCHERS:
        return str(value)
    hint = did_you_mean(str(value), LAUNCHERS, otherwise=f"use {listing(LAUNCHERS)}")
    raise SettingsError(f"{where}: unknown launcher `{value}`", hint=hint)


def _address(data: Mapping[str, Any], provider: str, where: str) -> str | None:
    value = data.get("address")
    if provider == "local":
        if value not in (None, LOOPBACK, "localhost"):
            raise SettingsError(
                f"{where}: the provider `local` uses {LOOPBACK}, and no other `address`"
            )
        return LOOPBACK
    if value is None:
        return None
    text = str(value)
    try:
        address = ip_address(text)
    except ValueError:
        if re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?", text):
            return text
        raise SettingsError(
            f"{where}: `address` must be an IP address or the name of a host, not `{text}`"
        ) from None
    if address.is_unspecified:
        raise SettingsError(
            f"{where}: `address` must be one address of this machine, not `{text}` for all of them"
        )
    return text


def _ports(value: Any, where: str) -> tuple[int, int]:
    if value is None:
        return DEFAULT_PORTS
    found = re.fullmatch(r"\s*([0-9]{1,5})\s*(?:-\s*([0-9]{1,5})\s*)?", str(value))
    if found is not None:
        low = int(found[1])
        high = int(found[2] or found[1])
        if 1024 <= low <= high <= 65535:
            return low, high
    raise SettingsError(
        f"{where}: `ports` must be ports from 1024 to 65535, not `{value}`",
        hint="such as `ports: 54000-54999`",
    )
