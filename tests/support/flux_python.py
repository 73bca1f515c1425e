"""Flux's own parsers for tests: the real Flux where it is, else flux-python without its library."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
WITHOUT_LIBRARY = TESTS / "flux_without_library"
PACKAGE = Path(f"{sys.prefix}-flux")  # beside the environment, as the Makefile puts it


def has_flux() -> bool:
    """Whether a real Flux is installed."""
    ask = [sys.executable, "-c", "import flux.job"]
    return subprocess.run(ask, capture_output=True, timeout=60, check=False).returncode == 0


def python_path() -> str:
    """What PYTHONPATH needs so that flux-mcp can be imported; as it is with a real Flux.

    The test is skipped where flux-python is not there either.
    """
    pytest.importorskip("flux_mcp", reason="flux-mcp is not installed")
    if has_flux():
        return os.environ.get("PYTHONPATH", "")
    if not (PACKAGE / "flux").is_dir():
        pytest.skip(
            f"no Flux here, and no flux-python in {PACKAGE.name} (`make test` puts it there)"
        )
    return f"{WITHOUT_LIBRARY}:{PACKAGE}"
