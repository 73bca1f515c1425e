"""A stand-in for LangSmith on loopback: it keeps the body of every request."""

from __future__ import annotations

import gzip
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class TraceServer:
    """Receives traces.

    Attributes:
        bodies: The unpacked body of each request.
        url: The server's address.
    """

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.url = ""

    @property
    def all_bytes(self) -> bytes:
        return b"\n".join(self.bodies)


PLAIN = {"version": "0.10", "batch_ingest_config": {"use_multipart_endpoint": True}}
"""As little as a server may say about itself: no compression."""


@contextmanager
def trace_server(info: Mapping[str, Any] = PLAIN) -> Iterator[TraceServer]:
    """Run the server while the block runs.

    Args:
        info: The answer to ``/info``.
    """
    seen = TraceServer()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            if self.headers.get("Transfer-Encoding") == "chunked":
                body = b"".join(iter(self._chunk, b""))
            else:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            elif self.headers.get("Content-Encoding") == "zstd":
                import zstandard

                body = zstandard.ZstdDecompressor().stream_reader(body).read()
            seen.bodies.append(self.path.encode() + b" " + str(self.headers).encode() + body)
            self._answer({})

        def do_PATCH(self) -> None:
            self.do_POST()

        def do_GET(self) -> None:
            self._answer(info)

        def _chunk(self) -> bytes:
            data = self.rfile.read(int(self.rfile.readline().strip() or b"0", 16))
            self.rfile.readline()
            return data

        def _answer(self, said: Any) -> None:
            data = json.dumps(said).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    seen.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        server.shutdown()
        server.server_close()
