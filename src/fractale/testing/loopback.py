"""An HTTP server for a test: on a free port of the loopback interface, quiet, in a thread."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Generic, Self, TypeVar

OwnerT = TypeVar("OwnerT", covariant=True)


class LoopbackServer(ThreadingHTTPServer, Generic[OwnerT]):
    """Serves until it is closed.

    Args:
        owner: The object that its handlers get answers from.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(self, owner: OwnerT, handler: type[LoopbackHandler]) -> None:
        self.owner = owner
        super().__init__(("127.0.0.1", 0), handler)
        # A connection may be closed before it is accepted: the server must not wait for it.
        self.socket.settimeout(1.0)

    @property
    def url(self) -> str:
        """``http://127.0.0.1:PORT``."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def start(self) -> Self:
        """Serve in a separate thread."""
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def close(self) -> None:
        """Stop serving and listening."""
        self.shutdown()
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print nothing: clients that disconnect early are expected."""


class LoopbackHandler(BaseHTTPRequestHandler):
    """Reads and sends JSON."""

    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base's name
        """Log nothing."""

    def read_json(self) -> dict[str, Any]:
        """The body of the request; empty if it has none."""
        return json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"{}")

    def send_json(
        self, status: int, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> None:
        """Send a whole answer; None has no body."""
        self.send_content(status, b"" if body is None else json.dumps(body).encode(), headers)

    def send_content(
        self, status: int, content: bytes, headers: Mapping[str, str] | None = None
    ) -> None:
        """Send a whole answer of bytes with the content type of JSON."""
        self.send_response(status)
        if content:
            self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)
