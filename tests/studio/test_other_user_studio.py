"""The development server on a machine with other users: they can neither run nor read anything."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from langgraph_sdk import get_sync_client

from other_user import OTHER, needs_root, request
from servers.running import free_port

pytestmark = needs_root
PATIENCE = 90.0

PLAN = """\
name: mine
servers: []
steps: [{name: j, job: {scheduler: local, command: [sh, -c, "id -u > ran.txt"]}}]
"""
GRAPHS = """\
from fractale.studio import any_plan, make_app
from fractale.studio import open_saver as saver
plan = any_plan()
app = make_app()
"""


class Server:
    """A development server in a folder of its own."""

    def __init__(self, folder: Path, *words: str, ready: str = "") -> None:
        self.folder, self.port = folder, free_port()
        env = {n: v for n, v in os.environ.items() if not n.startswith(("FRACTALE_", "LANG"))}
        env |= {"HOME": str(folder), "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
        env |= {"FRACTALE_TRUST_PROJECT": "1", "LANGSMITH_TRACING": "false"}
        with (folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *words, "--no-browser", "--port", str(self.port)],
                cwd=folder,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + PATIENCE
        while not self._is_up():
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.1)

    def _is_up(self) -> bool:
        assert self.process.poll() is None, self.log()
        with contextlib.suppress(httpx.TransportError):
            # 401: it is up, and wants its token.
            found = httpx.get(f"http://127.0.0.1:{self.port}/ok", trust_env=False)
            return found.status_code in (200, 401)
        return False

    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")

    def end(self) -> None:
        self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(60)

    def ran(self) -> bool:
        return (self.folder / "ran.txt").exists()

    def run(self, url: str, **client: str) -> None:
        """Run the plan, as its user does with the SDK."""
        with get_sync_client(url=url, timeout=PATIENCE, **client) as sdk:
            thread = sdk.threads.create()["thread_id"]
            state = sdk.runs.wait(thread, "plan", input={"plan": PLAN})
            assert state["status"] == "success"
            assert sdk.threads.search()
        assert (self.folder / "ran.txt").read_text() == "0\n"


@contextlib.contextmanager
def served(folder: Path, *words: str) -> Iterator[Server]:
    server = Server(folder, *words)
    try:
        yield server
    finally:
        server.end()


STUDIO = ("fractale.cli", "studio")
ORDER = {"assistant_id": "plan", "input": {"plan": PLAN}}
PATHS = (
    ("/threads", {}),
    ("/threads/search", {}),
    ("/runs/wait", ORDER),
    ("/runs", ORDER),
    ("/runs/stream", ORDER),
    ("/runs/batch", [ORDER]),
    ("/runs/crons", {**ORDER, "schedule": "* * * * *"}),
    ("/assistants", {"graph_id": "plan"}),
    ("/assistants/search", {}),
    ("/store/items", {"namespace": ["a"], "key": "k", "value": {}}),
    ("/a2a/plan", {}),
    ("/mcp", {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}),
    ("/mcp/", {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}),
    ("/noauth/threads/search", {}),
    ("/ok", None),
    ("/info", None),
    ("/docs", None),
    ("/openapi.json", None),
    ("/metrics", None),
    ("/", None),
)


def test_another_user_gets_nothing_and_the_own_one_all(tmp_path):
    with served(tmp_path, *STUDIO) as server:
        for path, body in PATHS:
            status, text = request(OTHER, server.port, path, body=body)
            assert status == 403, (path, status, text)
        assert not server.ran()
        server.run(f"http://127.0.0.1:{server.port}")
        studio = {"Origin": "https://smith.langchain.com"}
        found = httpx.post(
            f"http://127.0.0.1:{server.port}/threads/search",
            json={},
            headers=studio,
            trust_env=False,
        )
        assert found.headers["access-control-allow-origin"] == studio["Origin"]
        assert len(found.json()) == 1


def test_the_gate_is_there_under_plain_langgraph_dev(tmp_path):
    (tmp_path / "graphs.py").write_text(GRAPHS)
    config = {
        "dependencies": ["."],
        "graphs": {"plan": "./graphs.py:plan"},
        "checkpointer": {"path": "./graphs.py:saver"},
        "http": {"app": "./graphs.py:app"},
    }
    (tmp_path / "langgraph.json").write_text(json.dumps(config))
    with served(tmp_path, "langgraph_cli", "dev", "--no-reload") as server:
        for path, body in PATHS:
            assert request(OTHER, server.port, path, body=body)[0] == 403
        assert not server.ran()
        server.run(f"http://127.0.0.1:{server.port}")


@pytest.mark.parametrize("app", [False, True])
def test_a_folder_with_graphs_and_an_app_of_its_own_has_the_gate(tmp_path, app):
    mine = "from fractale.studio import any_plan, open_saver as saver\nplan = any_plan()\n"
    mine += "from starlette.applications import Starlette\napp = Starlette()\n"
    (tmp_path / "mine.py").write_text(mine)
    config = {"dependencies": ["."], "graphs": {"plan": "./mine.py:plan"}}
    config |= {"checkpointer": {"path": "./mine.py:saver"}}
    config |= {"http": {"app": "./mine.py:app"}} if app else {}
    (tmp_path / "langgraph.json").write_text(json.dumps(config))
    with served(tmp_path, *STUDIO) as server:
        for path, body in PATHS:
            assert request(OTHER, server.port, path, body=body)[0] == 403
        assert not server.ran()
        server.run(f"http://127.0.0.1:{server.port}")


def test_on_another_address_it_wants_the_token_that_it_prints(tmp_path):
    with served(tmp_path, *STUDIO, "--host", "0.0.0.0") as server:
        for uid in (0, OTHER):
            for path, body in PATHS:
                assert request(uid, server.port, path, body=body)[0] == 401
        assert not server.ran()
        printed = re.search(r"smith\.langchain\.com/studio/\?baseUrl=(\S+?)(\x1b|\s)", server.log())
        url = printed.group(1).replace("0.0.0.0", "127.0.0.1")
        token = url.rpartition("/")[2]
        assert len(token) == 32
        assert "other machines can reach" in server.log()
        server.run(url)
        (tmp_path / "ran.txt").unlink()
        server.run(f"http://127.0.0.1:{server.port}", api_key=token)
        studio = {"Origin": "https://smith.langchain.com"}
        preflight = {**studio, "Access-Control-Request-Method": "POST"}
        found = httpx.options(f"{url}/threads/search", headers=preflight, trust_env=False)
        assert found.headers["access-control-allow-origin"] == studio["Origin"]
        assert httpx.get(f"{url}/ok", headers=studio, trust_env=False).status_code == 200
        state = tmp_path / ".fractale"
        kept = [p for p in state.rglob("*") if p.is_file() and token.encode() in p.read_bytes()]
        assert kept == []
