"""The faults that the browser of the tests notices, on pages that are wrong on purpose."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from browser import NARROW, Browser

POLICY = "default-src 'none'; style-src 'self'; script-src 'self'; img-src data:"
PAGES = {
    "/good": "<h1>Good</h1><p>All is well.</p><button>Continue</button><button>Stop</button>",
    "/bad": """<h1>Bad</h1><img src="http://elsewhere.example/x.png"><script>document.title = "ran"
      </script><p onclick="document.title = 'ran'">text</p><button></button>
      <p style="color: #ccc">pale</p><div><pre>"""
    + "wide " * 100
    + "</pre></div>",
}


class Pages(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        page = PAGES.get(self.path)
        body = (
            f"<!doctype html><html lang=en><title>T</title><link rel=icon href='data:,'>"
            f"<main>{page}</main></html>"
        ).encode()
        self.send_response(200 if page else 404)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Security-Policy", POLICY)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Nothing is printed."""


@pytest.fixture
def server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Pages) as http:
        thread = threading.Thread(target=http.serve_forever, args=(0.05,))
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()
        thread.join()


def test_a_page_without_faults(browser: Browser, server: str) -> None:
    browser.open(f"{server}/good")
    assert browser.path == "/good"
    assert not browser.faults()
    browser.tab_to("stop")
    assert browser.focus == "button Stop"
    assert browser.focus_is_visible()
    browser.size(*NARROW)
    assert not browser.sideways()
    assert browser.screenshot("good").stat().st_size > 1000
    assert browser.requests()[-1] == f"{server}/good"


def test_what_is_wrong_with_a_page_is_noticed(browser: Browser, server: str) -> None:
    browser.open(f"{server}/bad")
    found = " ".join(browser.faults())
    assert "button-name" in found
    assert "image-alt" in found
    browser.size(*NARROW)
    assert "<pre>" in " ".join(browser.sideways())
    assert browser.driver.title == "T", "its script did not run"
    errors = browser.console_errors()
    assert [e for e in errors if "Content Security Policy" in e], errors
    with pytest.raises(AssertionError):
        browser.check()
    browser.expected_errors = ("Content Security Policy",)
    assert not browser.console_errors()
    assert browser.elsewhere() == ["http://elsewhere.example/x.png"], "though the policy stopped it"
    browser.addresses.clear()


def test_another_host_is_noticed_and_not_reached(browser: Browser, tmp_path) -> None:
    page = tmp_path / "page.html"
    page.write_text('<html lang=en><title>T</title><img alt="" src="http://elsewhere.example/x">')
    browser.open(page)
    assert browser.elsewhere() == ["http://elsewhere.example/x"]
    errors = browser.console_errors()
    assert any("ERR_NAME_NOT_RESOLVED" in e for e in errors), errors
    browser.addresses.clear()
    browser.expected_errors = ("ERR_NAME_NOT_RESOLVED",)
