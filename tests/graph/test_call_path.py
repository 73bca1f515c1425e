"""How much of fractale a reader has to follow for one tool call."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[1] / "bench" / "call_path.py"


def test_one_tool_call_passes_at_most_20_files_and_11_frames():
    done = subprocess.run([sys.executable, SCRIPT], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert "mcp/session.py: Session.exchange" in done.stdout
