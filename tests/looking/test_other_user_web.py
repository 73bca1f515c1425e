"""Another user of the machine gets nothing of `fractale web`: port, socket, cookie, files."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterator

import httpx
import pytest

from faces import Web, web_server
from made_runs import MadeRuns
from other_user import STRANGER, as_user, needs_root, request

pytestmark = needs_root


@pytest.fixture(scope="module")
def web(made: MadeRuns) -> Iterator[Web]:
    made.run("failed-job")
    os.chmod(made.folder.parents[1], 0o755)  # noqa: PTH101 - pytest makes it private
    with web_server(made, "--no-browser") as web:
        yield web


@pytest.fixture(scope="module")
def cookie(web: Web) -> str:
    """The cookie of the user whose server it is."""
    with httpx.Client(base_url=web.url) as client:
        client.get(web.address)
        (cookie,) = client.cookies.jar
    assert httpx.get(f"{web.url}/", cookies={cookie.name: str(cookie.value)}).status_code == 200
    return f"{cookie.name}={cookie.value}"


@pytest.mark.parametrize("path", ["/", "/runs/failed-job", "/plans", "/static/web.js"])
def test_a_page_needs_this_user_even_with_the_cookie(web: Web, cookie: str, path: str):
    for headers in ({}, {"Cookie": cookie}):
        status, text = request(STRANGER, web.port, path, headers=headers)
        assert status == 403, text
        assert "failed-job" not in text
        assert "fractale-" not in text


def test_the_token_is_of_no_use_to_another_user(web: Web):
    status, text = request(STRANGER, web.port, f"/?token={web.token}")
    assert status == 403, text


def test_the_token_is_in_no_list_of_processes_and_in_no_file_of_others(web: Web, made: MadeRuns):
    words = as_user(STRANGER, lambda: _read(f"/proc/{web.process.pid}/cmdline"))
    assert web.token not in words
    assert "denied" in as_user(STRANGER, lambda: _read(f"/proc/{web.process.pid}/environ"))
    for file in made.state_dir.rglob("*"):
        if file.is_file() and web.token.encode() in file.read_bytes():
            assert not file.stat().st_mode & 0o077, file


def test_the_socket_is_closed_to_another_user(made: MadeRuns):
    folder = made.folder / "private"
    folder.mkdir(mode=0o700)
    path = folder / "web.sock"
    with web_server(made, "--socket", str(path), "--no-browser", output=folder / "out") as web:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        transport = httpx.HTTPTransport(uds=str(path))
        with httpx.Client(transport=transport, base_url="http://localhost:8000") as client:
            assert client.get("/").status_code == 401, "a token is needed there, too"
            assert client.get(f"/?token={web.token}").status_code == 200
            assert "failed-job" in client.get("/").text
        folder.chmod(0o755)
        assert "denied" in as_user(STRANGER, lambda: _connect(str(path)))
    assert not path.exists()


def test_the_runs_and_the_reports_are_this_users_own(made: MadeRuns):
    record = made.run("failed-job")
    for path in (record.path, record.events, record.head):
        assert not path.stat().st_mode & 0o077, path
    made.call("report", "failed-job", "-o", "private.html")
    assert not (made.folder / "private.html").stat().st_mode & 0o077


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:  # noqa: PTH123
            return file.read()
    except PermissionError:
        return "denied"


def _connect(path: str) -> str:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        try:
            client.connect(path)
        except PermissionError:
            return "denied"
        return "connected"
