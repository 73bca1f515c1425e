"""The app in front of the development server: its gate, and the runs that it lists."""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.middleware import Middleware

from fractale.errors import UsageError
from fractale.settings import load_settings, without_password
from fractale.store.index import list_runs
from fractale.store.run_record import RunRecords
from fractale.studio.gate import STUDIO, Gate, can_tell_users, required_token
from fractale.studio.launch import graph_name
from fractale.studio.saver import KEPT_AS, read_head, thread_of

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

LISTED = 200
"""The number of latest runs that the server lists."""


def make_app(
    *plans: Path | str, origins: Sequence[str] = STUDIO, around: Starlette | None = None
) -> Starlette:
    """Build the app that ``langgraph.json`` names under ``http``.

    Args:
        plans: Plans with their own graphs in the server, or directories of such plans.
        origins: Web pages that may use the server, in addition to those of this machine.
        around: An app whose routes the server also has; the gate is put before it.

    Raises:
        SettingsError: The server can't identify the user of a connection, and has no token.
    """
    app = Starlette() if around is None else around
    if any(each.cls is Gate for each in app.user_middleware):
        return app
    token = required_token(load_settings().environment, tells_users=can_tell_users())
    known = frozenset(Path(plan).absolute() for plan in plans)
    app.user_middleware[:0] = [
        Middleware(Gate, origins=tuple(origins), token=token),
        Middleware(KnownRuns, plans=known),
    ]
    return app


def load_app(place: str) -> Starlette:
    """Load the app that a ``langgraph.json`` names: ``./FILE.py:NAME``, or ``MODULE:NAME``.

    Raises:
        UsageError: The app is missing, or is not a Starlette app.
    """
    file, _, name = place.rpartition(":")
    try:
        if file.endswith(".py"):
            spec = importlib.util.spec_from_file_location("fractale_studio_app", file)
            assert spec is not None  # noqa: S101 - a file of Python has one
            assert spec.loader is not None  # noqa: S101
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
        else:
            module = importlib.import_module(file)
        found = getattr(module, name)
    except (ImportError, OSError, AttributeError, ValueError) as error:
        raise UsageError(
            f"langgraph.json: the app `{place}` cannot be loaded: {error}",
            hint="write `http: {app: ./FILE.py:NAME}`",
        ) from error
    if not isinstance(found, Starlette):
        raise UsageError(
            f"langgraph.json: `{place}` is a {type(found).__name__}, not a Starlette app",
            hint="`fractale studio` puts access checks in front of the app; "
            "use a Starlette or FastAPI app",
        )
    return found


class KnownRuns:
    """Adds the runs of the state directory to the server before the server lists threads.

    Args:
        plans: Plans that are graphs of the server, or directories of such plans.
    """

    def __init__(self, app: ASGIApp, plans: Set[Path]) -> None:
        self._app = app
        self._plans = plans
        self._known: set[str] = set()
        self._updating = asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Add new runs to the server if the request lists threads, then pass the request on."""
        path = str(scope.get("path", ""))
        if scope["type"] == "http" and path.endswith(("/threads/search", "/threads/count")):
            async with self._updating:
                await self._update()
        await self._app(scope, receive, send)

    async def _update(self) -> None:
        from langgraph_sdk import get_client

        new = await asyncio.to_thread(self._new)
        client = get_client() if new else None
        for thread, metadata in new:
            assert client is not None  # noqa: S101 - there is a new run
            await client.threads.create(thread_id=thread, if_exists="do_nothing")
            await client.threads.update(thread, metadata=metadata)

    def _new(self) -> list[tuple[str, dict[str, Any]]]:
        """Return the threads of the runs that the server does not know yet, oldest first."""
        settings = load_settings()
        rows = list_runs(settings.state_dir, limit=LISTED)
        new = [row.id for row in reversed(rows) if row.id not in self._known]
        self._known.update(new)
        records, here = RunRecords(settings.state_dir), without_password(settings.store) or "sqlite"
        heads = [(run_id, read_head(records.at(run_id))) for run_id in new]
        return [self._thread(*each) for each in heads if each[1].get("store", here) == here]

    def _thread(self, run_id: str, head: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        graph = head.get(KEPT_AS, {}).get("graph") or self._graph(head)
        metadata = {"graph_id": graph, "run": run_id, "plan": head.get("plan")}
        return thread_of(run_id, head), metadata

    def _graph(self, head: Mapping[str, Any]) -> str:
        """The server's graph for a run that was started on the command line."""
        file = Path(str(head.get("file") or ""))
        return graph_name(file) if self._plans & {file, file.parent} else "plan"
