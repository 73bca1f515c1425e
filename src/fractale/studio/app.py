"""What stands in front of the development server: strange web pages out, known runs in."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.responses import JSONResponse

from fractale.runs.listing import list_runs
from fractale.settings import load_settings, without_password
from fractale.store.records import RunFolders
from fractale.studio.names import STUDIO, graph_name
from fractale.studio.threads import KEPT_AS, read_head, thread_of

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

LISTED = 200
"""Runs that the server is told of: the latest ones."""
FORBIDDEN = 403
ITSELF = "/noauth"
"""The path below which the server calls itself, which nobody outside can."""


def make_app(*plans: Path | str, origins: Sequence[str] = STUDIO) -> Starlette:
    """The app that ``langgraph.json`` names under ``http``.

    Args:
        plans: What has graphs of its own in the server, by their names: plans, or folders of them.
        origins: Web pages that may use the server, beside those of this machine.
    """
    known = frozenset(Path(plan).absolute() for plan in plans)
    return Starlette(
        middleware=[
            Middleware(OwnPages, origins=tuple(origins)),
            Middleware(KnownRuns, plans=known),
        ]
    )


class OwnPages:
    """Refuses what a strange web page in a browser of this machine sends: the server has no lock.

    Args:
        origins: Pages that may send, beside those of this machine.
    """

    def __init__(self, app: ASGIApp, origins: Sequence[str]) -> None:
        self._app = app
        self._origins = origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with 403, or hand on."""
        if scope["type"] == "http" and scope.get("root_path") != ITSELF:
            headers = Headers(scope=scope)
            if not self._may(headers.get("origin")) or not _is_address(headers.get("host", "")):
                refusal = JSONResponse({"detail": "not from this page"}, FORBIDDEN)
                await refusal(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _may(self, origin: str | None) -> bool:
        return origin is None or origin in self._origins or _is_address(urlsplit(origin).netloc)


def _is_address(host: str) -> bool:
    """Whether a host is written as an address or as localhost, and not by a name of the web's."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or bool(ipaddress.ip_address(name))
    except ValueError:
        return False


class KnownRuns:
    """Tells the server of the runs of the state folder before it lists threads.

    Args:
        plans: Plans that are graphs of the server, or folders of them.
    """

    def __init__(self, app: ASGIApp, plans: Set[Path]) -> None:
        self._app = app
        self._plans = plans
        self._known: set[str] = set()
        self._telling = asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand on, when what is new was told."""
        path = str(scope.get("path", ""))
        if scope["type"] == "http" and path.endswith(("/threads/search", "/threads/count")):
            async with self._telling:
                await self._tell()
        await self._app(scope, receive, send)

    async def _tell(self) -> None:
        from langgraph_sdk import get_client

        new = await asyncio.to_thread(self._new)
        client = get_client() if new else None
        for thread, told in new:
            assert client is not None  # noqa: S101 - there is something to tell
            await client.threads.create(thread_id=thread, if_exists="do_nothing")
            await client.threads.update(thread, metadata=told)

    def _new(self) -> list[tuple[str, dict[str, Any]]]:
        """Threads of runs that were not told of yet, the oldest first."""
        settings = load_settings()
        rows = list_runs(settings.state_dir, limit=LISTED)
        new = [row.id for row in reversed(rows) if row.id not in self._known]
        self._known.update(new)
        folders, here = RunFolders(settings.state_dir), without_password(settings.store) or "sqlite"
        heads = [(run_id, read_head(folders.at(run_id))) for run_id in new]
        return [self._thread(*each) for each in heads if each[1].get("store", here) == here]

    def _thread(self, run_id: str, head: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        graph = head.get(KEPT_AS, {}).get("graph") or self._graph(head)
        told = {"graph_id": graph, "run": run_id, "plan": head.get("plan")}
        return thread_of(run_id, head), told

    def _graph(self, head: Mapping[str, Any]) -> str:
        """The server's graph for a run of the command line's."""
        file = Path(str(head.get("file") or ""))
        return graph_name(file) if self._plans & {file, file.parent} else "plan"
