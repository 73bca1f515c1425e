"""The pages of `fractale web` over HTTP: lists, a run as it goes, hostile texts, and actions."""

from __future__ import annotations

import html
import json
import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import httpx
import pytest

from faces import Web, web_server
from fractale.record.history_reader import read_history
from fractale.runs.actions import NotStarted
from fractale.web.app import said
from fractale.web.lists import PAGE, Filter, run_list
from made_runs import (
    BEGIN,
    HOSTILE,
    MARK,
    MadeRuns,
    hostile_questions,
    hostile_run,
    many_runs,
    wait_for,
)

WAITING = "approval"


@pytest.fixture(scope="module")
def web(made: MadeRuns) -> Iterator[Web]:
    with web_server(made, "--no-browser", "--model", "openai:scripted") as web:
        yield web


@pytest.fixture(scope="module")
def client(web: Web) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=web.url, trust_env=False, timeout=60) as client:
        client.get(web.address)
        yield client


def csrf_in(page: str) -> str:
    found = re.search(r'name="csrf" value="([0-9a-f]{64})"', page)
    assert found, page[:400]
    return found[1]


def key_in(page: str) -> str:
    found = re.search(r'data-question="([^"]+)"', page)
    assert found, page[:400]
    return html.unescape(found[1])


def post(client: httpx.Client, path: str, page: str, **form: str) -> httpx.Response:
    """Send a form of a page, as a browser would."""
    headers = {"Origin": str(client.base_url).rstrip("/")}
    return client.post(path, data={"csrf": csrf_in(page), **form}, headers=headers)


def status_of(made: MadeRuns, run_id: str, *wanted: str) -> str:
    record = made.record(run_id)
    wait_for(lambda: read_history(record).status in wanted, f"{run_id}: {wanted}")
    return read_history(record).status


# -- the list ------------------------------------------------------------------------------------


def test_the_list_is_filtered_and_has_pages(made: MadeRuns, tmp_path: Path):
    samples = [made.run("steps"), made.run("failed-job"), made.run(WAITING)]
    ids = many_runs(tmp_path, samples, 2 * PAGE + 10)
    whole = run_list(tmp_path, Filter())
    assert [row.run for row in whole.rows] == ids[:PAGE]
    assert (whole.found, whole.pages) == (len(ids), 3)
    assert {state: number for state, _, number in whole.counts} == {
        "success": 70, "failed": 70, "waiting": 70,
    }  # fmt: skip
    last = run_list(tmp_path, Filter(page=99))
    assert [row.run for row in last.rows] == ids[2 * PAGE :]
    failed = run_list(tmp_path, Filter(state="failed", text="RELAX"))
    assert failed.found == 70
    (about,) = {row.about for row in failed.rows}
    assert re.match(r"failed at relax: .*exit code 3", about)
    assert [state for state, _, _ in failed.counts] == ["failed"]
    assert run_list(tmp_path, Filter(plan="Look twice")).found == 70
    assert run_list(tmp_path, Filter(since="1h"), now=BEGIN + 60 * len(ids)).found == 60
    assert run_list(tmp_path, Filter(text="no such run")).found == 0


def test_a_hint_keeps_its_lines_without_control_characters():
    error = NotStarted("the plan has changed", hint="fork it\nthe plan\x1b")
    assert said(error) == {"message": "the plan has changed", "hint": "fork it\nthe plan\\x1b"}


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({"state": "odd", "since": "soon", "page": "-1"}, Filter()),
        ({"page": "9" * 40}, Filter()),
        ({"q": " a ", "state": "failed", "since": "2d", "page": "2"},
         Filter(text="a", state="failed", since="2d", page=2)),
    ],
)  # fmt: skip
def test_what_an_address_names_wrongly_is_left_out(query: dict[str, str], expected: Filter):
    assert Filter.of(query) == expected


def test_the_list_is_sent_again_only_if_it_changed(client: httpx.Client, made: MadeRuns):
    made.run("steps")
    htmx, again = {"HX-Request": "true"}, ""

    def is_still() -> bool:
        """Whether no run of another test goes on meanwhile."""
        nonlocal again
        page = client.get("/").text
        again = html.unescape(re.search(r'hx-get="([^"]+)"', page)[1])  # type: ignore[index]
        return client.get(again, headers=htmx).status_code == 204

    wait_for(is_still, "a list that does not change")
    made.make("steps", "list-again")
    changed = client.get(again, headers=htmx)
    assert changed.status_code == 200
    assert "list-again" in changed.text
    assert "<html" not in changed.text


# -- a run as it goes ----------------------------------------------------------------------------


class Stream:
    """The messages of a run's stream."""

    def __init__(self, client: httpx.Client, run_id: str, at: str, last: str = "") -> None:
        headers = {"Last-Event-ID": last} if last else {}
        self._request = client.stream(
            "GET", f"/runs/{run_id}/live", params={"at": at}, headers=headers
        )

    def __enter__(self) -> Iterator[tuple[str, str]]:
        return self._messages(self._request.__enter__().iter_lines())

    def __exit__(self, *error: Any) -> None:
        self._request.__exit__(*error)

    @staticmethod
    def _messages(lines: Iterator[str]) -> Iterator[tuple[str, str]]:
        data, number = list[str](), ""
        for line in lines:
            if line.startswith("data:"):
                data.append(line[5:].removeprefix(" "))
            elif line.startswith("id:"):
                number = line[3:].strip()
            elif not line and data:
                yield number, "\n".join(data)
                data = []


def test_a_page_gets_what_changed_and_no_more(client: httpx.Client, made: MadeRuns):
    with made.going("web-live"):
        page = client.get("/runs/web-live").text
        at = re.search(r"/live\?at=([\w-]+)", page)[1]  # type: ignore[index]
        assert 'id="part-verdict"' in page
        with Stream(client, "web-live", at) as messages:
            made.open_gate("web-live")
            seen, number = "", ""
            while "<title>success" not in seen:
                number, html_ = next(messages)
                seen += html_
        targets = re.findall(r'hx-target="#([^"]+)" hx-swap="(\w+)"', seen)
        assert ("part\\2d verdict", "outerMorph") in targets
        assert ("visits", "beforeend") in targets, "a new attempt is added"
        with Stream(client, "web-live", at, last="other-7") as messages:
            assert 'id="part-rest"' in next(messages)[1], "all parts, for a page of before"
        assert number.partition("-")[0] == at.partition("-")[0]


def test_an_attempt_and_a_log_are_loaded_when_they_are_opened(client: httpx.Client, made: MadeRuns):
    record = made.run("failed-job")
    page = client.get("/runs/failed-job").text
    assert "Step 5900" in page, "the end of the log is in the verdict"
    inside = client.get("/runs/failed-job/visits/2", headers={"HX-Request": "true"}).text
    assert "<html" not in inside
    assert "ERROR: Unknown pair style" in inside
    (job,) = record.jobs.iterdir()
    log = client.get(f"/runs/failed-job/logs/{job.name}")
    assert "Last command: pair_style" in log.text
    whole = client.get(f"/runs/failed-job/logs/{job.name}/whole")
    assert whole.headers["content-type"] == "text/plain; charset=utf-8"
    assert whole.headers["content-disposition"].startswith("attachment;")
    assert "sandbox" in whole.headers["content-security-policy"]
    assert whole.text == (job / "log").read_text()


def test_a_link_in_the_place_of_a_log_is_not_followed(
    client: httpx.Client, made: MadeRuns, tmp_path: Path
):
    record = made.run("failed-job")
    copy = record.sibling("linked-log")
    shutil.copytree(record.path, copy.path)
    (tmp_path / "secret").write_text("very secret")
    (log := next(copy.jobs.iterdir()) / "log").unlink()
    log.symlink_to(tmp_path / "secret")
    for path in (f"logs/{log.parent.name}", f"logs/{log.parent.name}/whole"):
        assert "very secret" not in client.get(f"/runs/linked-log/{path}").text


# -- hostile texts -------------------------------------------------------------------------------


HIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


OWN = re.compile("/(?!/)|#|data:,$|data:image/(png|jpeg|gif|webp);base64,")
"""Addresses of fractale itself."""


class Markup(HTMLParser):
    """Checks a page: only fractale's own elements, attributes and addresses, and visible texts."""

    def __init__(self) -> None:
        super().__init__()
        self.faults: list[str] = []
        self._inside = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self._inside = tag
        if tag in ("iframe", "object", "embed", "base", "style"):
            self.faults.append(tag)
        if tag == "script" and not (given.get("src") or "").startswith("/static/"):
            self.faults.append(f"script {given}")
        for name, value in attrs:
            if name.startswith("on") or name == "style":
                self.faults.append(f"{tag} {name}")
            is_address = name in ("href", "src", "action", "hx-get", "data-src")
            if is_address and not OWN.match(value or ""):
                self.faults.append(f"{tag} {name}={value!r}"[:200])

    def handle_data(self, data: str) -> None:
        # A field has the value itself: it is sent as it is.
        if self._inside != "textarea" and (found := HIDDEN.search(data)):
            self.faults.append(f"{found[0]!r} in {data[:80]!r}")


def test_hostile_texts_are_text(client: httpx.Client, made: MadeRuns):
    made.run("steps")
    hostile_run(made.state_dir, long_line=200_000)
    hostile_questions(made.state_dir)
    pages = [
        "/",
        "/recent?run=hostile",
        "/runs/hostile",
        "/runs/hostile-asks",
        "/diff?a=hostile&b=steps",
    ]
    pages += [
        "/runs/hostile/fork",
        "/runs/hostile/visits/1",
        "/runs/hostile/visits/5",
        "/?plan=%3Cb%3E",
    ]
    for path in pages:
        answer = client.get(path)
        assert answer.status_code == 200, (path, answer.text[-600:])
        markup = Markup()
        markup.feed(answer.text)
        assert not markup.faults, (path, markup.faults[:5])
        assert len(answer.text) < 2_000_000, path
    assert html.escape(HOSTILE[0])[:20] in client.get("/runs/hostile").text
    assert MARK in client.get("/").text
    with Stream(client, "hostile", "") as messages:
        markup = Markup()
        markup.feed(next(messages)[1])
        assert not markup.faults


# -- answers -------------------------------------------------------------------------------------


def test_an_answer_is_given_once_and_only_to_its_question(client: httpx.Client, made: MadeRuns):
    made.make("approval", "web-answer", "-i", "path=web-answer.sh", code=4)
    page = client.get("/runs/web-answer").text
    key, path = key_in(page), "/runs/web-answer/answer"
    for form in ({"answer": "maybe"}, {"answer": "edit", "arguments": "{"}, {"answer": ""}):
        assert post(client, path, page, question=key, **form).status_code == 409
    assert post(client, path, page, question="0" * 40, answer="yes").status_code == 409
    assert post(client, path, page, answer="yes").status_code == 409
    assert key_in(client.get("/runs/web-answer").text) == key, "the question stays open"
    assert not (made.folder / "web-answer.sh").exists()
    given = post(client, path, page, question=key, answer="no")
    assert given.headers["location"] == "/runs/web-answer?done=answered"
    status_of(made, "web-answer", "success", "failed")
    late = post(client, path, page, question=key, answer="yes")
    assert late.status_code == 409
    assert "not open any more" in late.text
    assert not (made.folder / "web-answer.sh").exists(), "a no stays a no"


def test_a_run_is_forked_and_one_that_has_ended_is_not_resumed(
    client: httpx.Client, made: MadeRuns
):
    made.run("parent")
    page = client.get("/runs/parent/fork").text
    assert "one two three" in page
    wrong = post(client, "/runs/parent/fork", page, at="no-such-step")
    assert wrong.status_code == 422
    changed = {"at": "first#1", "changed.text": "four more words here"}
    answer = post(client, "/runs/parent/fork", page, **changed)
    run_id = re.fullmatch(r"/runs/(\w+)\?done=forked", answer.headers["location"])[1]  # type: ignore[index]
    assert status_of(made, run_id, "success") == "success"
    assert "seen 4 words" in client.get(f"/runs/{run_id}").text
    made.run("steps")
    again = post(client, "/runs/steps/resume", page)
    assert again.status_code == 409
    assert "already ended" in again.text


def test_each_line_of_a_comparison_is_a_line(client: httpx.Client, made: MadeRuns):
    made.run("steps")
    made.run("failed-job")
    page = client.get("/diff?a=steps&b=failed-job").text
    shown = re.search(r'<pre class="lines"[^>]*>(.*?)</pre>', page, re.DOTALL)[1]  # type: ignore[index]
    words = [re.sub("<[^>]+>", "", line).strip() for line in shown.split("\n")]
    assert len(words) > 5
    assert any(line.startswith("plan") for line in words)


# -- starting a run --------------------------------------------------------------------------------


def test_a_run_that_has_not_begun_has_a_page_that_continues(client: httpx.Client, made: MadeRuns):
    record = made.run("steps").sibling("not-begun")
    record.path.mkdir(mode=0o700, parents=True)
    try:
        record.output.write_text("error  the server <x> does not start\n")
        page = client.get("/runs/not-begun")
        assert page.status_code == 200
        assert '<meta http-equiv="refresh" content="1">' in page.text
        assert "the server &lt;x&gt; does not start" in page.text
    finally:
        shutil.rmtree(record.path)


def test_a_run_is_started_after_its_effects_were_shown(client: httpx.Client, made: MadeRuns):
    path = "/plans/plans/steps.yaml"
    page = client.get(path).text
    before = set(json.dumps(sorted(p.name for p in (made.state_dir / "runs").iterdir())))
    shown = post(client, path, page, **{"do": "look", "input.text": "one two\r\nthree"})
    assert shown.status_code == 200
    assert "What it would do" in shown.text
    token = re.search(r'name="shown" value="(\w+)"', shown.text)[1]  # type: ignore[index]
    for form in (
        {"do": "start", "shown": "", "input.text": "one two\nthree"},
        {"do": "start", "shown": token, "input.text": "other words"},
    ):
        refused = post(client, path, page, **form)
        assert "has changed since you saw this" in refused.text
    assert set(json.dumps(sorted(p.name for p in (made.state_dir / "runs").iterdir()))) == before
    given = post(
        client, path, page, **{"do": "start", "shown": token, "input.text": "one two\nthree"}
    )
    run_id = re.fullmatch(r"/runs/(\w+)\?done=started", given.headers["location"])[1]  # type: ignore[index]
    assert status_of(made, run_id, "success") == "success"
    assert "seen 3 words" in client.get(f"/runs/{run_id}").text


def test_a_secret_input_is_on_no_page(client: httpx.Client, made: MadeRuns):
    path = "/plans/plans/secret.yaml"
    page = client.get(path).text
    assert 'name="input.word"' not in page
    shown = post(client, path, page, **{"do": "look", "input.word": "open-sesame"})
    assert 'type="password"' in shown.text
    assert "open-sesame" not in shown.text
    token = re.search(r'name="shown" value="(\w+)"', shown.text)[1]  # type: ignore[index]
    given = post(client, path, page, **{"do": "start", "shown": token, "input.word": "open-sesame"})
    run_id = re.fullmatch(r"/runs/(\w+)\?done=started", given.headers["location"])[1]  # type: ignore[index]
    assert status_of(made, run_id, "success") == "success"
    record = made.record(run_id)
    for file in [each for each in record.path.rglob("*") if each.is_file()]:
        assert b"open-sesame" not in file.read_bytes(), file
    assert "open-sesame" not in client.get(f"/runs/{run_id}").text


def test_a_wrong_plan_shows_its_problems_and_cannot_start(client: httpx.Client, made: MadeRuns):
    (made.folder / "plans" / "wrong.yaml").write_text(
        "name: wrong\nsteps:\n  - {name: a, tol: look}\n"
    )
    page = client.get("/plans/plans/wrong.yaml")
    assert "tool" in page.text
    assert "Start a run" not in page.text
    csrf = client.get("/plans/plans/steps.yaml").text
    assert "What it would do" not in post(client, "/plans/plans/wrong.yaml", csrf, do="start").text
    wrong = post(client, "/plans/plans/form.yaml", csrf, **{"do": "look", "input.odd": "1"})
    assert wrong.status_code == 200


def test_a_wrong_input_is_told_at_its_field(client: httpx.Client, made: MadeRuns):
    (made.folder / "plans" / "sizes.yaml").write_text(
        "name: sizes\ninputs:\n  sizes: {type: array, required: true}\n  n: {type: integer}\n"
        "steps:\n  - {name: a, tool: look, inputs: {text: '{{ inputs.sizes }}'}}\n"
    )
    path = "/plans/plans/sizes.yaml"
    page = client.get(path).text
    wrong = post(client, path, page, **{"do": "look", "input.sizes": "4", "input.n": "many"})
    assert wrong.status_code == 422
    assert wrong.text.count('aria-invalid="true"') == 2
    assert "must be of type array, not 4" in wrong.text
    assert "must be of type integer, not &#34;many&#34;" in wrong.text
    assert "-i sizes" not in wrong.text, "a page has no command line"
    missing = post(client, path, page, **{"do": "look", "input.n": "1"})
    assert missing.text.count('aria-invalid="true"') == 1
    assert "is required" in missing.text
