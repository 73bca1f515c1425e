"""What the MCP library logs as an error and is none: that the other side has left.

A client that ends its session, or a call that is given up, closes a stream that the library still
writes to. It logs that with a traceback, which a person would take for a fault.
"""

from __future__ import annotations

import logging

import anyio

LOGGERS = ("mcp.client.streamable_http", "mcp.server.streamable_http")


def quiet_departures() -> None:
    """Leave such records out, of both sides; other errors are logged as before."""
    for name in LOGGERS:
        logging.getLogger(name).addFilter(_says_more)


def _says_more(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, (anyio.ClosedResourceError, anyio.BrokenResourceError))
