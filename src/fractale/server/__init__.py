"""``fractale serve``: the tools of registry and server files, served over MCP to other programs.

The server listens on this machine only, unless options say otherwise; for any other address it
requires a token.

- `options` combines flags, files and defaults, and refuses unsafe combinations.
- `http` listens, behind the gates of `gates` and within the limits of `bounds`.
- `stdio` serves the program that started this one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from fractale.registry import Registry
from fractale.server.options import ServeOptions, options_of

if TYPE_CHECKING:
    from fractale.errors import Problem
    from fractale.registry.files import Transport

__all__ = ["ServeOptions", "options_of", "serve", "serve_async"]


def serve(registries: Sequence[Registry], **options: Any) -> None:
    """Serve until SIGINT or SIGTERM: `serve_async` for code that is not async.

    Raises:
        UsageError: It can't be served so; the message says why.
        PlanError: An entry can't be served: every problem.
    """
    asyncio.run(serve_async(registries, **options))


async def serve_async(
    registries: Sequence[Registry],
    *,
    transport: Transport | None = None,
    host: str | None = None,
    port: int | None = None,
    path: str | None = None,
    token: str | None = None,
    allowed_hosts: Sequence[str] = (),
    allowed_origins: Sequence[str] = (),
    ssl_keyfile: str | None = None,
    ssl_certfile: str | None = None,
    name: str = "fractale",
    on_ready: Callable[[str], None] | None = None,
    on_warning: Callable[[Problem], None] | None = None,
) -> None:
    """Serve registries until SIGINT or SIGTERM, or, over stdio, until the client is gone.

    Over HTTP it returns when it was stopped; over stdio a signal ends the process.

    Args:
        registries: As `fractale.registry.load_registry` reads them.
        transport: None, here and below: what the files say, else the default.
        host: The address to listen on.
        port: 0 takes a free one.
        path: Of the MCP endpoint.
        token: What callers must send as bearer token. It is never shown.
        allowed_hosts: More names that the Host header may have; ``*`` any.
        allowed_origins: Web origins that may call, as ``https://host``.
        ssl_keyfile: With `ssl_certfile`, serve HTTPS.
        ssl_certfile: The certificate, PEM.
        name: What the server calls itself.
        on_ready: Takes the URL once connections are taken; over stdio it isn't called.
        on_warning: Takes what is wrong but doesn't stop the start; None: it is logged.

    Raises:
        UsageError: Another address without a token, a port in use, a bad certificate.
        PlanError: An entry can't be served: every problem.
    """
    options = options_of(
        registries,
        transport=transport,
        host=host,
        port=port,
        path=path,
        token=token,
        allowed_hosts=tuple(allowed_hosts),
        allowed_origins=tuple(allowed_origins),
        ssl_keyfile=ssl_keyfile,
        ssl_certfile=ssl_certfile,
    )

    def build() -> Any:
        from fractale.registry.build import build_server

        return build_server(registries, name=name, on_warning=on_warning)

    if options.transport == "stdio":
        from fractale.server.stdio import serve_stdio

        await serve_stdio(build)
    else:
        from fractale.server.http import serve_http

        await serve_http(build, options, on_ready)
