"""The pages of `fractale web`, and what its forms do.

Pages show only what the index of runs, a run's history and `fractale.runs.actions` give. Every
handler that reads files is a plain function, which Starlette runs in a thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import re
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.resources import files
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import quote, urlencode

from sse_starlette import EventSourceResponse
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from fractale.errors import FractaleError, PlanError, UsageError
from fractale.masking import Masker
from fractale.plan.picture import PAGE_STYLE
from fractale.private import make_folder, write_private
from fractale.record.plans import plan_hash
from fractale.render.dry_run import text_lines
from fractale.render.problems import file_lines, show_problems
from fractale.render.text import inert
from fractale.report.page import Paging
from fractale.runs.actions import Actions, BackgroundRun, RunFlags
from fractale.settings import Settings
from fractale.store.run_record import RunRecord, RunRecords
from fractale.sweeps.record import SweepRecord
from fractale.version import __version__
from fractale.web import run_parts
from fractale.web.access import CSRF, SANDBOX, Access, Guard
from fractale.web.environment import environment
from fractale.web.lists import SINCE, Filter, run_list
from fractale.web.live import NO_TROUBLE, TITLE, TROUBLE, Feeds, NotShown
from fractale.web.logs import job_logs, log_tail
from fractale.web.plans import CheckedPlan, PlanFile, checked, fields_of, given_in, plan_files
from fractale.web.questions import answer_in
from fractale.web.sweeps import RowFilter, Sweeps, sweep_of

BY: Final = "fractale web"
RECENT: Final = 40
"""Runs that are listed beside the page of a run."""
FOLDER: Final = "web"
"""The directory of the server's own files, in the state directory."""
AGAIN: Final = 1
"""Seconds after which the page of a run that has not begun is loaded again."""
LONGEST_NUMBER: Final = 8
"""Digits of the number of an attempt."""
PING: Final = 15
"""Seconds between two comments on a stream, by which a client that is gone is noticed."""
STATIC: Final[Mapping[str, tuple[str, str, str]]] = {
    "htmx.js": ("fractale.web", "static/htmx.min.js", "text/javascript"),
    "hx-sse.js": ("fractale.web", "static/hx-sse.min.js", "text/javascript"),
    "web.js": ("fractale.web", "static/web.js", "text/javascript"),
    "web.css": ("fractale.web", "static/web.css", "text/css"),
    "htmx.txt": ("fractale.web", "static/LICENSE-htmx.txt", "text/plain"),
    "page.css": ("fractale.report", "style.css", "text/css"),
}
"""Name → package, file in it, and type: no other file is served."""
DONE: Final[Mapping[str, str]] = {
    "answered": "your answer was given to the run",
    "resumed": "the run continues in the background",
    "cancelled": "the run was cancelled",
    "stopping": "the run is in the middle of a call and stops after it",
    "forked": "this is the new run",
    "started": "the run was started in the background",
    "sweep-answered": "your answer was given to all runs that asked this",
    "sweep-resumed": "the sweep continues in the background",
    "sweep-cancelled": "the sweep was cancelled",
    "sweep-retried": "the failed rows begin again in the background",
}
"""The notes that a redirect can name; an address cannot contain another text."""

T = TypeVar("T")


@dataclass(slots=True, kw_only=True)
class Web:
    """What all pages share.

    Args:
        directory: Where plan files are looked for; runs are started there.
        flags: ``-r`` and other options of the runs that are started.
        access: The secrets of this start.
        report: Receives a line about a fault of fractale.
    """

    settings: Settings
    directory: Path
    access: Access
    flags: RunFlags = field(default_factory=RunFlags)
    report: Callable[[str], None] = lambda words: None
    actions: Actions = field(init=False)
    feeds: Feeds = field(init=False)
    sweeps: Sweeps = field(init=False)
    records: RunRecords = field(init=False)
    templates: Any = field(init=False)
    paging: Paging = field(init=False)

    def __post_init__(self) -> None:
        self.actions = Actions(self.settings, by=BY)
        self.sweeps = Sweeps(self.settings, by=BY)
        self.records = RunRecords(self.settings.state_dir)
        self.templates = environment()
        self.templates.globals |= {
            "here": "",
            "csrf": self.access.csrf,
            "csrf_name": CSRF,
            "version": __version__,
            "place": inert(str(self.directory), 200),
        }
        self.paging = Paging(details=False, mask=Masker(self.settings.secrets))
        self.feeds = Feeds(run_parts.RunParts(self.templates, self.actions, self.paging))

    def app(self) -> ASGIApp:
        """The application behind its gate."""
        routes = [
            Route("/", self.list),
            Route("/recent", self.recent),
            Route("/runs/{run}", self.run),
            Route("/runs/{run}/live", self.live),
            Route("/runs/{run}/visits/{number}", self.visit),
            Route("/runs/{run}/logs/{name}", self.log),
            Route("/runs/{run}/logs/{name}/whole", self.whole_log),
            Route("/runs/{run}/fork", self.fork_form, methods=["GET"]),
            Route("/runs/{run}/fork", self.fork, methods=["POST"]),
            Route("/runs/{run}/answer", self.answer, methods=["POST"]),
            Route("/runs/{run}/cancel", self.cancel, methods=["POST"]),
            Route("/runs/{run}/resume", self.resume, methods=["POST"]),
            Route("/sweeps/{sweep}", self.sweep, methods=["GET"]),
            Route("/sweeps/{sweep}/answer", self.answer_sweep, methods=["POST"]),
            Route("/sweeps/{sweep}/cancel", self.cancel_sweep, methods=["POST"]),
            Route("/sweeps/{sweep}/resume", self.resume_sweep, methods=["POST"]),
            Route("/sweeps/{sweep}/retry", self.retry_sweep, methods=["POST"]),
            Route("/plans", self.plans),
            Route("/plans/{name:path}", self.plan, methods=["GET"]),
            Route("/plans/{name:path}", self.start, methods=["POST"]),
            Route("/diff", self.diff),
            Route("/static/{name}", self.static),
        ]
        handlers: Any = {
            FractaleError: self.on_error,
            HTTPException: self.on_http,
            Exception: self.on_fault,
        }
        return Guard(Starlette(routes=routes, exception_handlers=handlers), self.access)

    def stop(self) -> None:
        """End all streams."""
        self.feeds.stop()

    def _page(self, template: str, status: int = 200, **values: Any) -> Response:
        return HTMLResponse(self.templates.get_template(template).render(**values), status)

    # -- runs

    def list(self, request: Request) -> Response:
        """The list of runs; only its table for htmx, and nothing if the table is known."""
        found = run_list(self.settings.state_dir, Filter.of(request.query_params))
        shows = found.filter.page == 1 and not (found.filter.state or found.filter.sweep)
        sweeps = self.sweeps.listed(found.filter.text, found.filter.plan) if shows else None
        table = self.templates.get_template("runs.html").render(runs=found, sweeps=sweeps)
        address = found.filter.address()
        again = address + ("&" if "?" in address else "?") + urlencode({"seen": _digest(table)})
        polled = self.templates.get_template("polled.html").render(table=table, again=again)
        if request.headers.get("hx-request") != "true":
            return self._page("list.html", runs=found, since=SINCE, table=polled)
        known = request.query_params.get("seen") == _digest(table)
        return Response(status_code=204) if known else HTMLResponse(polled)

    def recent(self, request: Request) -> Response:
        """The latest runs, beside the page of one of them; nothing if they are known."""
        rows, polled = self._recent(request.query_params.get("run", ""))
        known = request.query_params.get("seen") == _digest(rows)
        return Response(status_code=204) if known else HTMLResponse(polled)

    def _recent(self, run: str) -> tuple[str, str]:
        found = run_list(self.settings.state_dir, Filter(), most=RECENT)
        rows = self.templates.get_template("recent.html").render(runs=found, run=run)
        again = f"/recent?{urlencode({'run': run, 'seen': _digest(rows)})}"
        polled = self.templates.get_template("recent_polled.html").render(rows=rows, again=again)
        return rows, polled

    def run(self, request: Request) -> Response:
        record = self._record(request)
        if not record.head.exists():
            output = log_tail(record.output)
            return self._page("starting.html", run=record.run_id, output=output, again=AGAIN)
        feed = self.feeds.of(record)
        parts, version = feed.parts()
        return self._page(
            "run_live.html",
            run=record.run_id,
            heading=inert(feed.history.title.partition("\n")[0], 200),
            title=parts[TITLE].html,
            parts={TROUBLE: NO_TROUBLE, **{name: part.html for name, part in parts.items()}},
            visits=[part.html for part in parts.values() if part.into == run_parts.VISITS],
            cards=[part.html for part in parts.values() if part.into == run_parts.CARDS],
            at=version,
            recent=self._recent(record.run_id)[1],
            sweep=sweep_of(feed.history.head),
            done=DONE.get(request.query_params.get("done", "")),
        )

    async def live(self, request: Request) -> Response:
        """The changes of a run's page, as server-sent events."""
        if self.feeds.is_full:
            return PlainTextResponse(
                "too many pages are open\n", 503, headers={"Retry-After": "10"}
            )
        at = request.headers.get("last-event-id") or request.query_params.get("at", "")
        feed = await _in_thread(lambda: self.feeds.of(self._record(request)))
        stream = self.feeds.stream(feed, at)
        return EventSourceResponse(stream, ping=PING, send_timeout=30)

    def visit(self, request: Request) -> Response:
        """What happened in one attempt; only that for htmx."""
        record = self._record(request)
        feed = self.feeds.of(record)
        feed.update()
        given = request.path_params["number"]
        number = int(given) if given.isdecimal() and len(given) < LONGEST_NUMBER else 0
        with feed.lock:
            html = run_parts.detail(self.templates, feed.history, number, self.paging)
        if html is None:
            raise HTTPException(404, "no such attempt")
        if request.headers.get("hx-request") == "true":
            return HTMLResponse(html)
        return self._page("visit.html", run=record.run_id, html=html)

    def log(self, request: Request) -> Response:
        """The end of a job's log; the page follows it while the job runs."""
        record = self._record(request)
        log = self._log(request, record)
        text = log_tail(log.path)
        again = f"{request.url.path}?seen={_digest(text)}" if not log.over else ""
        tail = self.templates.get_template("log_tail.html").render(text=text, again=again)
        if request.headers.get("hx-request") != "true":
            return self._page("log.html", run=record.run_id, log=log, tail=tail)
        if not log.over and request.query_params.get("seen") == _digest(text):
            return Response(status_code=204)
        return HTMLResponse(tail)

    def whole_log(self, request: Request) -> Response:
        """A job's log as it is: text that a browser neither runs nor guesses about."""
        record = self._record(request)
        log = self._log(request, record)
        name = re.sub(r"[^A-Za-z0-9._-]", "_", f"{record.run_id}-{log.name}.log")
        headers = {
            "content-security-policy": SANDBOX,
            "content-disposition": f'attachment; filename="{name}"',
        }
        return log.response(headers)

    def _log(self, request: Request, record: RunRecord) -> Any:
        """A log of a job that the run's history has."""
        feed = self.feeds.of(record)
        feed.update()
        with feed.lock:
            found = {log.name: log for log in job_logs(feed.history)}
        log = found.get(request.path_params["name"])
        if log is None:
            raise HTTPException(404, "the run has no such job")
        return log

    def _record(self, request: Request) -> RunRecord:
        """The record of the run in the address.

        Raises:
            HTTPException: The run was not found.
        """
        try:
            return self._find(request.path_params["run"])
        except UsageError as error:
            raise HTTPException(404, error.message) from error

    def _find(self, name: str) -> RunRecord:
        if name == "-1":
            raise UsageError("name a run")
        return self.records.find(name)

    # -- actions on runs

    async def answer(self, request: Request) -> Response:
        """Give the answer of a card's form."""
        record, form = await _in_thread(self._record, request), request.state.form
        key = form.get("question", "")
        asked = {each.key: each for each in await _in_thread(self.actions.questions, record.run_id)}
        if key not in asked:
            raise UsageError(
                f"this question of run {record.run_id} is not open any more",
                hint="go back to the run: it shows who answered it, and what it asks now",
            )
        given = await self.actions.answer(record.run_id, key, answer_in(asked[key].question, form))
        del given
        return _to_run(record.run_id, "answered")

    async def resume(self, request: Request) -> Response:
        record = await _in_thread(self._record, request)
        await self.actions.resume(record.run_id)
        return _to_run(record.run_id, "resumed")

    async def cancel(self, request: Request) -> Response:
        record = await _in_thread(self._record, request)
        step = request.state.form.get("step") or None
        found = await self.actions.cancel(record.run_id, step)
        if found.trouble:
            raise UsageError(found.trouble, hint=f"see `fractale show {record.run_id}`")
        return _to_run(record.run_id, "cancelled" if found.stopped or step else "stopping")

    def fork_form(self, request: Request) -> Response:
        """The form of a fork."""
        record = self._record(request)
        return self._fork_page(record, request.query_params.get("at", ""))

    def _fork_page(
        self, record: RunRecord, at: str, texts: Mapping[str, str] | None = None, error: Any = None
    ) -> Response:
        feed = self.feeds.of(record)
        feed.update()
        with feed.lock:
            steps = run_parts.fork_steps(feed.history)
            fields = run_parts.fork_fields(feed.history, texts)
        return self._page(
            "fork.html",
            422 if error else 200,
            run=record.run_id,
            at=at,
            steps=steps,
            fields=fields,
            error=error and said(error),
        )

    async def fork(self, request: Request) -> Response:
        record, form = await _in_thread(self._record, request), request.state.form
        texts = run_parts.fork_texts(form)
        feed = await _in_thread(self.feeds.of, record)
        try:
            changed = await _in_thread(run_parts.changed_inputs, feed, texts)
            started = await self.actions.fork(record.run_id, form.get("at", ""), changed)
        except FractaleError as error:
            return await _in_thread(self._fork_page, record, form.get("at", ""), texts, error)
        return _to_run(started.run, "forked")

    # -- sweeps

    def sweep(self, request: Request) -> Response:
        """A sweep's page; only what changes for htmx, and nothing if that is known."""
        record = self._sweep_record(request)
        wanted = RowFilter.of(request.query_params)
        shown = self.sweeps.shown(record, wanted)
        html = self.templates.get_template("sweep_parts.html").render(shown=shown)
        address = shown.filter.address(record.sweep_id)
        again = address + ("&" if "?" in address else "?") + urlencode({"seen": _digest(html)})
        polled = self.templates.get_template("sweep_polled.html").render(html=html, again=again)
        if request.headers.get("hx-request") != "true":
            done = DONE.get(request.query_params.get("done", ""))
            return self._page("sweep_live.html", shown=shown, polled=polled, done=done)
        known = request.query_params.get("seen") == _digest(html)
        return Response(status_code=204) if known else HTMLResponse(polled)

    def _sweep_record(self, request: Request) -> SweepRecord:
        """The record of the sweep in the address.

        Raises:
            HTTPException: The sweep was not found.
        """
        try:
            return self.sweeps.find(request.path_params["sweep"])
        except UsageError as error:
            raise HTTPException(404, error.message) from error

    async def answer_sweep(self, request: Request) -> Response:
        """Give the answer of a card's form to all runs that ask the same."""
        record, form = await _in_thread(self._sweep_record, request), request.state.form
        name, key = record.sweep_id, form.get("question", "")
        groups = await _in_thread(self.sweeps.actions.questions, name)
        asked = {each.key: each for each in groups}
        if key not in asked:
            raise UsageError(
                f"no run of sweep {name} asks this any more",
                hint="go back to the sweep: it shows what its runs ask now",
            )
        await self.sweeps.answer(record, key, answer_in(asked[key].question, form))
        return _to_sweep(name, "sweep-answered")

    async def cancel_sweep(self, request: Request) -> Response:
        record = await _in_thread(self._sweep_record, request)
        if trouble := await self.sweeps.actions.cancel(record.sweep_id):
            raise UsageError(trouble, hint=f"see `fractale sweep show {record.sweep_id}`")
        return _to_sweep(record.sweep_id, "sweep-cancelled")

    async def resume_sweep(self, request: Request) -> Response:
        record = await _in_thread(self._sweep_record, request)
        await self.sweeps.actions.resume(record.sweep_id)
        return _to_sweep(record.sweep_id, "sweep-resumed")

    async def retry_sweep(self, request: Request) -> Response:
        """Let all failed rows begin again."""
        record = await _in_thread(self._sweep_record, request)
        await self.sweeps.actions.retry(record.sweep_id)
        return _to_sweep(record.sweep_id, "sweep-retried")

    # -- plans

    def plans(self, request: Request) -> Response:
        del request
        return self._page("plans.html", plans=list(plan_files(self.directory).values()))

    def plan(self, request: Request) -> Response:
        """A plan: its picture, its problems, its runs, and the form that starts it."""
        file = self._file(request)
        found = checked(file.path)
        return self._plan_page(file, found)

    def _plan_page(
        self,
        file: PlanFile,
        found: CheckedPlan,
        *,
        texts: Mapping[str, str] | None = None,
        error: Any = None,
        preview: Sequence[str] | None = None,
        token: str = "",
        note: str = "",
    ) -> Response:
        plan = found.plan
        runs = run_list(self.settings.state_dir, Filter(plan=plan.name)) if plan else None
        return self._page(
            "plan.html",
            422 if error else 200,
            plan=file,
            name=inert(plan.name, 200) if plan else "",
            description=inert(plan.description or "", lines=True) if plan else "",
            found=found,
            picture=run_parts.plan_picture(plan) if plan else "",
            fields=fields_of(plan, texts) if plan else [],
            secrets=[f for f in fields_of(plan) if f.kind == "secret"] if plan else [],
            runs=runs,
            error=error and said(error),
            preview=preview,
            token=token,
            note=note,
            texts=texts or {},
        )

    async def start(self, request: Request) -> Response:
        """Show what the plan would do, and start it once that was shown."""
        file = await _in_thread(self._file, request)
        found = await _in_thread(checked, file.path)
        form = request.state.form
        if found.plan is None or not found.is_valid:
            return await _in_thread(self._plan_page, file, found)
        given = given_in(found.plan, form)
        page = _Partial(self._plan_page, file, found, texts=given.texts)
        try:
            would = await self.actions.dry_run(str(file.path), given.inputs, self.flags)
            token = _digest(plan_hash(found.plan), *sorted(map(repr, given.inputs.items())))
            lines = text_lines(found.plan, would)
            if form.get("do") != "start" or form.get("shown") != token:
                stale = form.get("do") == "start"
                note = "the plan has changed since you saw this; look again" if stale else ""
                return await _in_thread(page, preview=lines, token=token, note=note)
            flags = replace(self.flags, secrets=given.secrets)
            started: BackgroundRun = await self.actions.start(
                str(file.path), given.inputs, flags, shown=plan_hash(found.plan)
            )
        except FractaleError as error:
            return await _in_thread(page, error=error)
        return _to_run(started.run, "started")

    def _file(self, request: Request) -> PlanFile:
        file = plan_files(self.directory).get(request.path_params["name"])
        if file is None:
            raise HTTPException(404, "no such plan file in this directory")
        return file

    # -- two runs

    def diff(self, request: Request) -> Response:
        """Two runs side by side: ``?a=…&b=…``, or two of ``run=…``."""
        from fractale.record.diff import diff_runs
        from fractale.record.history_reader import read_history
        from fractale.render.diff import diff_lines

        query = request.query_params
        names = [query.get("a", ""), query.get("b", "")]
        if chosen := query.getlist("run"):
            names = chosen[-2:] if len(chosen) == 2 else [*chosen, "", ""][:2]
        if not all(names) or len(query.getlist("run")) > 2:
            words = {
                "message": "choose two runs to compare",
                "hint": "mark two in the list of runs",
            }
            return self._page("error.html", title="two runs", error=words, back="/")
        try:
            a, b = (read_history(self._find(name)) for name in names)
        except UsageError as error:
            raise HTTPException(404, error.message) from error
        lines = diff_lines(diff_runs(a, b), full=query.get("full") == "1")
        return self._page("diff.html", a=a.run, b=b.run, lines=lines, full=query.get("full") == "1")

    # -- files, and errors

    def static(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name == "picture.css":
            return Response(PAGE_STYLE, media_type="text/css")
        found = STATIC.get(name)
        if found is None:
            raise HTTPException(404, "no such file")
        package, name, kind = found
        data = files(package).joinpath(*name.split("/")).read_bytes()
        return Response(data, media_type=kind)

    def on_error(self, request: Request, error: Exception) -> Response:
        """A page for an error that fractale raises on purpose."""
        if isinstance(error, NotShown) and error.__cause__ is not None:
            self._keep(request, error.__cause__)
        return self._page(
            "error.html", 409, title="not done", error=said(error), back=_back(request)
        )

    def on_http(self, request: Request, error: Exception) -> Response:
        status = getattr(error, "status_code", 500)
        words = {"message": inert(str(getattr(error, "detail", "")), 400), "hint": ""}
        return self._page(
            "error.html",
            status,
            title="not found" if status == 404 else "refused",
            error=words,
            back=_back(request),
        )

    def on_fault(self, request: Request, error: Exception) -> Response:
        """A page for an unexpected error; its traceback is kept in a file."""
        file = self._keep(request, error)
        words = f"a fault of fractale: {type(error).__name__}"
        said_of = {"message": words, "hint": f"please report it with {file}"}
        return self._page("error.html", 500, title="not done", error=said_of, back=_back(request))

    def _keep(self, request: Request, error: BaseException) -> Path:
        """Keep an error's traceback in a file, and report it; returns the file."""
        file = self.settings.state_dir / FOLDER / "fault.txt"
        with contextlib.suppress(OSError):
            make_folder(file.parent)
            write_private(file, "".join(traceback.format_exception(error)), sync="none")
        where = inert(request.url.path, 200)
        self.report(f"an unexpected {type(error).__name__}, at {where}; see {file}")
        return file


class _Partial:
    """A function with some of its arguments; the others are keywords."""

    def __init__(self, function: Callable[..., Response], *given: Any, **named: Any) -> None:
        self._function, self._given, self._named = function, given, named

    def __call__(self, **named: Any) -> Response:
        return self._function(*self._given, **self._named, **named)


async def _in_thread(function: Callable[..., T], *given: Any, **named: Any) -> T:
    return await asyncio.to_thread(function, *given, **named)


def _digest(*texts: str) -> str:
    return hashlib.blake2b("\0".join(texts).encode("utf-8", "replace"), digest_size=12).hexdigest()


def _to_run(run: str, done: str) -> Response:
    return RedirectResponse(f"/runs/{quote(run)}?{urlencode({'done': done})}", 303)


def _to_sweep(sweep: str, done: str) -> Response:
    return RedirectResponse(f"/sweeps/{quote(sweep)}?{urlencode({'done': done})}", 303)


def _back(request: Request) -> str:
    """Where the user was: the run or the sweep of the address, or the list."""
    parts = request.url.path.split("/")
    if parts[1:2] == ["runs"] and len(parts) > 3:
        return f"/runs/{quote(parts[2])}"
    if parts[1:2] == ["sweeps"] and len(parts) > 3:
        return f"/sweeps/{quote(parts[2])}"
    if parts[1:2] == ["plans"] and request.method == "POST":
        return quote(request.url.path)
    return "/"


def said(error: Exception) -> dict[str, str]:
    """An error's message and hint, for a page."""
    if isinstance(error, PlanError):
        return {"message": show_problems(error.problems, file_lines(), color=False), "hint": ""}
    message = getattr(error, "message", None) or str(error)
    hint = getattr(error, "hint", None) or ""
    return {"message": inert(message, 4000, lines=True), "hint": inert(hint, 1000, lines=True)}
