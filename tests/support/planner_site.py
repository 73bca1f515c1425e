"""Tools of a site, and five tasks for the planner that need more than one call after another."""

from typing import Any, Literal

from pydantic import TypeAdapter
from typing_extensions import TypedDict

from fractale.testing import FakeToolServer

TASKS = {
    "queue": (
        "Find out which queues there are, let me choose the one to use, and submit"
        " `bash relax.sh` to it on 2 nodes."
    ),
    "samples": (
        "For each of the samples in /data/run7: align it to hg38, then sort the alignment. In the"
        " end gather the sorted files of all samples into one matrix. Return the matrix."
    ),
    "service": (
        "Start the service `vectors`, wait until it is ready, but no longer than 10 minutes, then"
        " run the benchmark against its URL with 500 requests."
    ),
    "cleanup": (
        "Start the service `vectors` and run the benchmark against its URL with 500 requests."
        " Whatever happens, stop the service at the end. If something fails, tell ops@site about"
        " it with the error."
    ),
    "scaling": (
        "Measure with 1, 2, 4 ... nodes, doubling each time, until the speed-up over the"
        " measurement before falls below 1.5. Return the whole table of nodes and seconds."
    ),
}
"""What the planner is asked, by name."""


class Queue(TypedDict):
    name: str
    nodes: int
    nodes_free: int
    max_time: str


class Queues(TypedDict):
    queues: list[Queue]


class Submitted(TypedDict):
    job_id: str


class Samples(TypedDict):
    samples: list[str]


class Alignment(TypedDict):
    bam: str


class Sorted(TypedDict):
    file: str


class Matrix(TypedDict):
    matrix: str
    samples: int


class Service(TypedDict):
    id: str
    url: str


class ServiceState(TypedDict):
    state: Literal["starting", "ready", "failed", "stopped"]


class Rate(TypedDict):
    requests_per_second: float


class Measured(TypedDict):
    nodes: int
    seconds: float


class Site:
    """The functions behind the tools.

    Attributes:
        broken: Whether the benchmark fails.
        state: Of every service.
        seconds: How long a measurement takes, by its number of nodes.
    """

    def __init__(self) -> None:
        self.broken = False
        self.state: Literal["ready", "failed"] = "ready"
        self.seconds = {1: 80.0, 2: 42.0, 4: 24.0, 8: 20.0}

    def queues(self) -> Queues:
        """List the queues of the machine, with their size and how much of them is free."""
        names = {"debug": "00:30:00", "batch": "24:00:00", "long": "96:00:00"}
        return {
            "queues": [
                {"name": n, "nodes": 64, "nodes_free": 12, "max_time": t} for n, t in names.items()
            ]
        }

    def submit(self, queue: str, command: str, nodes: int = 1) -> Submitted:
        """Submit a command to a queue. Returns the id of the job."""
        return {"job_id": f"{queue}-{nodes}"}

    def list_samples(self, folder: str) -> Samples:
        """List the sequencing samples in a folder."""
        return {"samples": [f"{folder}/{name}" for name in ("s1", "s2", "s3")]}

    def align(self, sample: str, reference: str) -> Alignment:
        """Align the reads of one sample to a reference genome."""
        return {"bam": f"{sample}.{reference}.bam"}

    def sort_bam(self, bam: str) -> Sorted:
        """Sort one alignment by position."""
        return {"file": bam.replace(".bam", ".sorted.bam")}

    def gather(self, files: list[str]) -> Matrix:
        """Count the features of all sorted files, and write one matrix."""
        return {"matrix": "/data/matrix.tsv", "samples": len(files)}

    def service_start(self, name: str) -> Service:
        """Start a service. It takes some minutes until it is ready."""
        return {"id": f"{name}-1", "url": "http://localhost:9000"}

    def service_state(self, id: str) -> ServiceState:  # noqa: A002 - a tool's argument
        """The state of a service."""
        return {"state": self.state}

    def service_stop(self, id: str) -> ServiceState:  # noqa: A002 - a tool's argument
        """Stop a service."""
        return {"state": "stopped"}

    def benchmark(self, url: str, requests: int = 100) -> Rate:
        """Send requests to a service that is ready, and measure its throughput."""
        if self.broken:
            raise RuntimeError("connection refused")
        return {"requests_per_second": 812.5}

    def measure(self, nodes: int) -> Measured:
        """Run the solver on a number of nodes, and measure its time in seconds."""
        return {"nodes": nodes, "seconds": self.seconds[nodes]}

    def notify(self, to: str, text: str) -> dict[str, Any]:
        """Send a person a message."""
        return {"sent": True}

    def clean_scratch(self, folder: str) -> dict[str, Any]:
        """Delete what a run left in a scratch folder."""
        return {"deleted": 3}

    def served(self) -> FakeToolServer:
        """The tools, described with their outputs as a registry describes them."""
        tools = FakeToolServer("site")
        for read in (self.queues, self.list_samples, self.service_state):
            _serve(tools, read, read_only=True)
        for change in (self.submit, self.align, self.sort_bam, self.gather, self.service_start,
                       self.service_stop, self.benchmark, self.measure, self.notify,
                       self.clean_scratch):  # fmt: skip
            _serve(tools, change, read_only=False)
        return tools


def _serve(tools: FakeToolServer, function: Any, *, read_only: bool) -> None:
    tools.tool(function)
    gives = function.__annotations__["return"]
    tools.describe(
        function.__name__,
        description=function.__doc__ or "",
        input_schema=TypeAdapter(function).json_schema(),
        output_schema=None if gives == dict[str, Any] else TypeAdapter(gives).json_schema(),
        annotations={"readOnlyHint": read_only},
    )
