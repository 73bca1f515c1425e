"""Certificates for this machine, for servers that tests start."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest


def make_certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate that signs itself, ``cert.pem``, and its key, ``key.pem``.

    The test is skipped where there is no openssl.
    """
    if shutil.which("openssl") is None:
        pytest.skip("makes its certificate with openssl")
    certificate, key = folder / "cert.pem", folder / "key.pem"
    words = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext"
    subprocess.run(
        [*words.split(), "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", certificate],
        check=True,
        capture_output=True,
    )
    return certificate, key
