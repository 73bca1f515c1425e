"""`fractale web` over HTTP: who gets in, from which page, and what a request may be."""

from __future__ import annotations

import contextlib
import html
import http.client
import re
import signal
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from faces import Web, web_server
from fractale.errors import UsageError
from fractale.web.access import HEADERS, MOST_BYTES
from fractale.web.serve import unknown_user
from made_runs import MadeRuns
from other_user import OTHER, needs_root
from other_user import request as request_of_user

PAGES = (
    "/",
    "/runs/steps",
    "/runs/steps/live",
    "/plans",
    "/plans/plans/steps.yaml",
    "/static/web.js",
)


@pytest.fixture(scope="module")
def web(made: MadeRuns) -> Iterator[Web]:
    made.run("steps")
    with web_server(made, "--no-browser") as web:
        yield web


@pytest.fixture
def client(web: Web) -> Iterator[httpx.Client]:
    """A browser that has opened the printed address."""
    with httpx.Client(base_url=web.url, trust_env=False, timeout=60) as client:
        assert client.get(web.address).status_code == 200
        yield client


def refused(made: MadeRuns, *words: str) -> str:
    """The output of a command that is used wrongly."""
    process = made.start(*words)
    _, err = process.communicate()
    assert process.returncode == 2, err
    return err


def csrf_in(page: str) -> str:
    found = re.search(r'name="csrf" value="([0-9a-f]{64})"', page)
    assert found, page[:400]
    return html.unescape(found[1])


def test_the_token_is_exchanged_for_a_cookie_and_leaves_the_address(web: Web):
    with httpx.Client(trust_env=False) as client:
        answer = client.get(f"{web.url}/runs/steps?token={web.token}&q=1")
        assert answer.status_code == 200
        assert 'content="0; url=/runs/steps?q=1"' in answer.text
        assert web.token not in answer.text
        cookie = answer.headers["set-cookie"]
        assert cookie.startswith(f"fractale-{web.port}=")
        assert "HttpOnly" in cookie
        assert "samesite=strict" in cookie.lower()
        assert web.token not in cookie
        page = client.get(f"{web.url}/runs/steps")
        assert page.status_code == 200
        assert web.token not in page.text


@pytest.mark.parametrize("path", PAGES)
def test_nothing_is_given_without_the_token_or_the_cookie(web: Web, path: str):
    for cookie in ("", f"fractale-{web.port}=", f"fractale-{web.port}={'a' * 43}", "fractale-1=x"):
        found = httpx.get(web.url + path, headers={"Cookie": cookie}, trust_env=False)
        assert found.status_code == 401
        assert "steps" not in found.text
    for token in ("", "x", web.token[:-1], f"{web.token}x", f"{web.token}%00"):
        found = httpx.get(f"{web.url}{path}?token={token}", trust_env=False)
        assert found.status_code == 403
        assert "set-cookie" not in found.headers


def test_every_answer_has_the_headers(client: httpx.Client):
    answers = [client.get(path) for path in ("/", "/runs/nope", "/static/web.js", "/static/nope")]
    answers += [client.request("PUT", "/"), client.get("/", headers={"Host": "evil.example"})]
    for answer in answers:
        for name, value in HEADERS.items():
            assert answer.headers[name] == value, (answer.url, name)
        assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:80",
        "127.0.0.1.evil.example",
        "localhost:1, evil",
        "0.0.0.0",
        "",
    ],
)
def test_a_name_that_was_bound_to_this_machine_is_refused(client: httpx.Client, host: str):
    assert client.get("/", headers={"Host": host}).status_code == 421


def test_the_port_of_a_forwarded_connection_is_free(client: httpx.Client):
    assert client.get("/", headers={"Host": "localhost:9000"}).status_code == 200


@pytest.mark.parametrize(
    "origin", ["null", "http://evil.example", "https://{host}", "http://127.0.0.1:1"]
)
def test_other_pages_are_refused(client: httpx.Client, web: Web, origin: str):
    origin = origin.format(host=f"127.0.0.1:{web.port}")
    for send in (client.get, client.post):
        assert send("/", headers={"Origin": origin}).status_code == 403


def test_what_a_browser_fetches_for_another_page_is_refused(client: httpx.Client):
    for site in ("cross-site", "same-site"):
        fetch = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "script"}
        assert client.get("/static/web.js", headers=fetch).status_code == 403
        frame = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe"}
        assert client.get("/", headers=frame).status_code == 403
    # A link that was clicked in another page.
    link = {
        "Sec-Fetch-Site": "cross-site",
        "Sec-Fetch-Mode": "navigate",
        "Sec-Fetch-Dest": "document",
    }
    assert client.get("/", headers=link).status_code == 200
    without = {**link, "Cookie": ""}
    onward = client.get("/diff?run=a%22&run=b", headers=without)
    assert 'url=/diff?run=a%22&amp;run=b"' in onward.text
    assert client.get("/", headers={**without, "Sec-Fetch-Site": "same-origin"}).status_code == 401


ACTIONS = (
    "/runs/steps/answer",
    "/runs/steps/cancel",
    "/runs/steps/resume",
    "/runs/steps/fork",
    "/plans/plans/steps.yaml",
)


@pytest.mark.parametrize("path", ACTIONS)
def test_an_action_needs_a_form_of_this_server(client: httpx.Client, web: Web, path: str):
    csrf = csrf_in(client.get("/plans/plans/steps.yaml").text)
    own = {"Origin": web.url}
    assert client.post(path, data={"csrf": csrf}).status_code == 403  # no Origin
    for wrong in ({}, {"csrf": ""}, {"csrf": csrf[:-1]}, {"csrf": csrf.upper() + "0"}):
        found = client.post(path, data={"x": "1", **wrong}, headers=own)
        assert found.status_code == 403
    assert client.post(path, json={"csrf": csrf}, headers=own).status_code == 415
    assert client.post(f"{path}?csrf={csrf}", data={"x": "1"}, headers=own).status_code == 403
    assert client.get(f"{path}?csrf={csrf}").status_code in (200, 404, 405)
    without_cookie = httpx.post(web.url + path, data={"csrf": csrf}, headers=own, trust_env=False)
    assert without_cookie.status_code == 401


def test_a_large_form_is_refused_before_it_is_read(client: httpx.Client, web: Web):
    headers = {"Origin": web.url, "Content-Type": "application/x-www-form-urlencoded"}
    many = client.post("/runs/steps/fork", content=b"a=" + b"x" * MOST_BYTES, headers=headers)
    assert many.status_code == 413

    def chunks() -> Iterator[bytes]:
        for _ in range(MOST_BYTES // 65536 + 2):
            yield b"x" * 65536

    # The connection may be closed while the rest is sent.
    with contextlib.suppress(httpx.TransportError):
        assert client.post("/runs/steps/fork", content=chunks(), headers=headers).status_code == 413
    fields = "&".join(f"a{i}=1" for i in range(600))
    assert client.post("/runs/steps/fork", content=fields, headers=headers).status_code == 400
    assert client.get("/").status_code == 200


def test_other_methods_and_protocols_are_refused(client: httpx.Client, web: Web):
    for method in ("PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"):
        assert client.request(method, "/").status_code == 405
    upgrade = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
    }
    assert (
        client.get("/runs/steps/live?at=", headers={**upgrade, "Host": "evil"}).status_code == 421
    )
    assert client.head("/").status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        "/static/../access.py",
        "/static/%2e%2e/access.py",
        "/static/..%2faccess.py",
        "/static/LICENSE",
        "/runs/../runs",
        "/runs/%2e%2e",
        "/runs/..%2f..%2fetc",
        "/runs/.",
        "/runs/-1",
        "/runs/steps%2f..%2fsteps",
        "/runs/steps/logs/..",
        "/runs/steps/logs/..%2f..%2fevents.jsonl/whole",
        "/runs/steps/logs/fr0000000000000/whole",
        "/runs/steps/visits/0",
        "/runs/steps/visits/99",
        f"/runs/steps/visits/{'9' * 5000}",
        "/runs/steps/visits/%C2%B2",
        "/diff?a=steps&b=-1",
        "/diff?a=-1&b=-1",
        "/plans/lab.py",
        "/plans/tools.yaml",
        "/plans//etc/passwd",
        "/plans/../../../etc/passwd",
        "/plans/plans/..%2f..%2fetc/passwd",
        "/plans/plans/steps.yaml%00",
        "//evil.example/",
    ],
)
def test_an_address_never_is_a_path(web: Web, client: httpx.Client, path: str):
    connection = http.client.HTTPConnection("127.0.0.1", web.port, timeout=60)
    cookies = "; ".join(f"{name}={value}" for name, value in client.cookies.items())
    connection.request("GET", path, headers={"Cookie": cookies})
    answer = connection.getresponse()
    text = answer.read().decode()
    assert answer.status in (404, 303), text
    assert "root:" not in text
    given = "&" if "?" in path else "?"
    connection.request("GET", f"{path}{given}token={web.token}", headers={"Connection": "close"})
    onward = re.search(r"url=([^\"]*)", connection.getresponse().read().decode())
    assert not onward or not onward[1].startswith(("//", "/\\"))


def test_the_token_is_in_no_log(web: Web, made: MadeRuns, client: httpx.Client):
    client.get("/runs/steps")
    said = (made.folder / "web.txt").read_text()
    assert said.count(web.token) == 1, "the printed address"
    assert "GET " not in said
    words = Path(f"/proc/{web.process.pid}/cmdline").read_bytes()
    assert web.token.encode() not in words


@needs_root
def test_another_user_gets_nothing_even_with_the_cookie(web: Web, client: httpx.Client):
    cookies = "; ".join(f"{name}={value}" for name, value in client.cookies.items())
    for headers in ({}, {"Cookie": cookies}):
        for path in ("/", f"/?token={web.token}", "/runs/steps", "/static/web.js"):
            status, text = request_of_user(OTHER, web.port, path, headers=headers)
            assert (status, "steps" in text) == (403, False)
    status, text = request_of_user(0, web.port, "/runs/steps", headers={"Cookie": cookies})
    assert status == 200


# -- a Unix socket -------------------------------------------------------------------------------


def over(path: Path) -> httpx.Client:
    return httpx.Client(
        transport=httpx.HTTPTransport(uds=str(path)), base_url="http://localhost:8000", timeout=60
    )


def test_a_socket_is_private_and_needs_the_token_too(made: MadeRuns, tmp_path: Path):
    path = tmp_path / "own" / "web.sock"
    with web_server(made, "--socket", str(path), output=tmp_path / "out.txt") as web:
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        said = (tmp_path / "out.txt").read_text()
        assert f"-L 8000:{path}" in said
        with over(path) as client:
            assert client.get("/").status_code == 401
            assert client.get("/", params={"token": web.token}).status_code == 200
            assert client.get("/").status_code == 200
            assert client.get("/", headers={"Host": "evil.example"}).status_code == 421
        assert "another server listens" in refused(made, "web", "--socket", str(path))
    assert not path.exists()


def test_a_socket_is_made_only_in_a_private_folder(made: MadeRuns, tmp_path: Path):
    (shared := tmp_path / "shared").mkdir()
    shared.chmod(0o777)
    assert "other users may write" in refused(made, "web", "--socket", str(shared / "s"))
    (file := tmp_path / "file").write_text("kept")
    assert "is not a socket" in refused(made, "web", "--socket", str(file))
    assert file.read_text() == "kept"
    # A server that was killed leaves its socket.
    stale = tmp_path / "stale.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(stale))
    with web_server(made, "--socket", str(stale), output=tmp_path / "out.txt"), over(stale) as it:
        assert it.get("/").status_code == 401


# -- the end -------------------------------------------------------------------------------------


def test_it_stops_at_once_although_pages_are_open(made: MadeRuns, tmp_path: Path):
    made.run("steps")
    with (
        web_server(made, "--no-browser", output=tmp_path / "out.txt") as web,
        httpx.Client(base_url=web.url, trust_env=False, timeout=60) as client,
    ):
        client.get(web.address)
        with client.stream("GET", "/runs/steps/live?at=") as answer:
            assert next(answer.iter_lines())
            web.process.send_signal(signal.SIGINT)
            assert web.process.wait() == 0
    assert "Traceback" not in (tmp_path / "out.txt").read_text()


def test_a_port_in_use_is_reported(web: Web, made: MadeRuns):
    said = refused(made, "web", "--no-browser", "--port", str(web.port))
    assert f"port {web.port} is in use" in said


def test_a_machine_that_does_not_show_users_gets_no_port():
    with socket.socket() as listener:
        with pytest.raises(UsageError, match="which user") as raised:
            unknown_user(listener, "linux")
        assert "--socket" in (raised.value.hint or "")
        assert "by the token alone" in unknown_user(listener, "darwin")
