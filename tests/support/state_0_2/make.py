"""How the state directory beside this file was made: `python make.py`, with the code of 0.2.

All checkpoints of that layout are in one ``checkpoints.sqlite``, beside ``runs/``. The script
must run with that code (commit 8e7a407 or before), from any directory: it works in ``/tmp/demo``,
with a home of its own, so that no path and no name of a machine is in what it leaves. Tests copy
the result before they use it.

| run | how it ended |
|---|---|
| done1 | success, with an included plan, a draft of a model and an agent |
| fails | failed at `second` |
| waits | waits for the approval of `second` |
| limit | stopped at its limit of steps, one step before the end |
| halfw | killed in a `foreach`, three of six items done |
| (drawn) | a fork of `done1` at `second` |
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from fractale.testing import ModelServer
from fractale.testing.model_server import ModelRequest, Reply

HERE = Path(__file__).parent
DEMO = Path("/tmp/demo")
DRAFT = {"steps": [{"name": "do", "tool": "change", "inputs": {"what": "by the draft"}}]}


def model(request: ModelRequest) -> Reply:
    if "WORK" not in json.dumps(request.body["messages"]):
        return Reply(data=DRAFT)
    answered = any(message["role"] == "tool" for message in request.body["messages"])
    return Reply(text="worked") if answered else Reply(tool_calls=[("look", {"what": "around"})])


def main() -> None:
    shutil.rmtree(DEMO, ignore_errors=True)
    shutil.copytree(HERE / "project", DEMO)
    (DEMO / "home").mkdir()
    with ModelServer(model) as server:
        env = {
            "PATH": os.environ["PATH"],
            "HOME": str(DEMO / "home"),
            "FRACTALE_TRUST_PROJECT": "1",
            "OPENAI_BASE_URL": server.openai_url,
            "OPENAI_API_KEY": "k-1234567890",
            "PYTHONDONTWRITEBYTECODE": "1",
        }

        def call(*words: str, code: int, **more: str) -> None:
            program = [sys.executable, "-m", "fractale.cli", *words]
            done = subprocess.run(program, cwd=DEMO, env=env | more, check=False)
            assert done.returncode == code, (words, done.returncode)

        def run(run_id: str, plan: str, *words: str, code: int, **more: str) -> None:
            given = ("-r", "tools.yaml", "--run-id", run_id, "--model", "openai:scripted")
            call("run", plan, *given, *words, code=code, **more)

        run("done1", "all.yaml", "--yes", code=0)
        run("fails", "three.yaml", "-i", "second=fail", code=1)
        run("waits", "three.yaml", "-i", "approve=true", code=4)
        run("limit", "three.yaml", "--limit", "steps=2", code=5)
        run("halfw", "many.yaml", code=-signal.SIGKILL, DIE_AT="item 3")
        call("fork", "done1", "--at", "second", "--yes", code=0)
    state = HERE / "state"
    shutil.rmtree(state, ignore_errors=True)
    ignored = shutil.ignore_patterns("index.sqlite*", "lock", "*.lock", "audit*", "*.sqlite-shm")
    shutil.copytree(DEMO / ".fractale", state, ignore=ignored)


if __name__ == "__main__":
    main()
