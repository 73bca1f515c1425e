"""A server in this process: messages are passed as objects."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator
from typing import Any

import anyio
from mcp.server.lowlevel import Server
from mcp.shared.memory import create_client_server_memory_streams

from fractale.errors import TransportError
from fractale.mcp.transport import EmbeddedServer, Streams, TransportHooks


@contextlib.asynccontextmanager
async def memory_streams(
    embedded: EmbeddedServer, hooks: TransportHooks
) -> AsyncGenerator[Streams]:
    """Run the server while the session lives."""
    server, lifespan = _low_level(embedded.server)
    async with create_client_server_memory_streams() as (client, (read, write)):

        async def serve() -> None:
            await server.run(read, write, server.create_initialization_options())
            hooks.lose(TransportError(f"the embedded server `{hooks.server}` ended", sent=True))

        # The lifespan is the outer context: its resources must outlive the server.
        async with lifespan, anyio.create_task_group() as group:
            group.start_soon(serve)
            try:
                yield client
            finally:
                group.cancel_scope.cancel()


def _low_level(server: Any) -> tuple[Server[Any], contextlib.AbstractAsyncContextManager[Any]]:
    """The protocol server inside any of the kinds of server, and its lifespan."""
    if not hasattr(server, "run") and callable(server):
        server = server()
    manager = getattr(server, "_lifespan_manager", None)
    lifespan = manager() if manager is not None else contextlib.nullcontext()
    return getattr(server, "_mcp_server", server), lifespan
