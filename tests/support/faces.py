"""Faces of a run as processes: `fractale web`, and commands without the packages of an extra."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import forked
from made_runs import MadeRuns

ADDRESS = re.compile(r"http://[a-z0-9.]+:\d+/\?token=[\w-]+")


@dataclass(frozen=True)
class Web:
    """A server of `fractale web`.

    Args:
        address: The printed address, with the token.
    """

    address: str
    process: forked.Process

    @property
    def url(self) -> str:
        """``http://HOST:PORT``."""
        return self.address.partition("/?")[0]

    @property
    def port(self) -> int:
        return int(urlsplit(self.address).port or 0)

    @property
    def token(self) -> str:
        return self.address.partition("token=")[2]


@contextmanager
def web_server(made: MadeRuns, *words: str, output: Path | None = None) -> Iterator[Web]:
    """Serve the runs of a folder in the block; the process ends with it."""
    output = output or made.folder / "web.txt"
    with output.open("w") as file:
        process = made.start(
            "web", "-r", "tools.yaml", *words, stdout=file.fileno(), stderr=file.fileno()
        )
    try:
        until = time.monotonic() + 60
        while not (found := ADDRESS.search(output.read_text())):
            assert process.poll() is None, output.read_text()
            assert time.monotonic() < until, output.read_text()
            time.sleep(0.02)
        yield Web(found[0], process)
    finally:
        process.send_signal(signal.SIGINT)
        process.wait()


HIDDEN = """
import importlib.abc, sys

class Hidden(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {names!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Hidden())
"""


def without_packages(folder: Path, names: Sequence[str]) -> dict[str, str]:
    """An environment in which a new Python doesn't find these packages, as if not installed."""
    (folder / "hidden").mkdir(exist_ok=True)
    (folder / "hidden" / "sitecustomize.py").write_text(HIDDEN.format(names=set(names)))
    return {"PYTHONPATH": str(folder / "hidden")}
