"""Sites whose scheduler is a stand-in that behaves as the real one was seen to."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from job_parts import Site, site

FOLDER = Path(__file__).parent / "stand_in_schedulers"
PROGRAMS = {
    "flux": (),
    "pbs": ("qsub", "qstat", "qselect", "qdel", "qsig"),
    "lsf": ("bsub", "bjobs", "bkill", "bqueues"),
}


def stand_in(folder: Path, scheduler: str, **environment: str) -> Site:
    """A site whose scheduler is the stand-in."""
    programs, state = folder / "bin", folder / "state"
    programs.mkdir(exist_ok=True)
    state.mkdir(exist_ok=True)
    for name in PROGRAMS[scheduler]:
        words = f'exec {sys.executable} {FOLDER / "scheduler.py"} {name} "$@"'
        (programs / name).write_text(f"#!/bin/sh\n{words}\n")
        (programs / name).chmod(0o755)
    if scheduler == "flux":  # it hides a real one
        words = f'exec {sys.executable} {FOLDER / "flux" / "program.py"} "$@"'
        (programs / "flux").write_text(f"#!/bin/sh\n{words}\n")
        (programs / "flux").chmod(0o755)
    own = {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "FAKE_STATE": str(state),
        "PYTHONPATH": str(FOLDER),
        "FLUX_URI": "local:///tmp/flux" if scheduler == "flux" else "",
    }
    return site(folder, scheduler, {**os.environ, **own, **environment})
