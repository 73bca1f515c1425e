"""Notifications: real commands and a real web server, and runs that none of them can disturb."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

import forked
from fractale.events import Event
from fractale.plan.build import parse_plan
from fractale.questions import MISSING
from fractale.runs import RunOptions, RunResult, Workspace
from fractale.runs.notify import MOST_BYTES, Notifications, encoded
from fractale.settings import Settings
from fractale.settings.notify import parse_notify
from fractale.store.run_record import RunRecords

SECRET = "canary-5d41402abc4b2a76"
FINISHED = {"status": "failed", "error": "boom", "next": ["fractale show r"], "usage": {}}
QUICK = (0.02, 0.02)
PLAN = """
name: asks
description: Ask and fail
steps:
  - {name: review, ask: "Is <!here> fine?", choices: [good, bad]}
  - {name: last, script: "#!/bin/sh\\nexit 3"}
"""


class Hook(ThreadingHTTPServer):
    """A webhook that answers with the given codes, then with 200, and keeps what it gets.

    Args:
        codes: 0 never answers, and 1 sends the head of its answer byte by byte.
    """

    daemon_threads = True

    def __init__(self, *codes: int) -> None:
        super().__init__(("127.0.0.1", 0), _Hook)
        self.codes, self.bodies = list(codes), list[dict[str, Any]]()
        self.headers = list[Mapping[str, str]]()
        self.leaving = threading.Event()
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/hooks/T123"

    def __exit__(self, *error: object) -> None:
        self.leaving.set()
        self.shutdown()
        super().__exit__(*error)


class _Hook(BaseHTTPRequestHandler):
    server: Hook

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.bodies.append(json.loads(body))
        self.server.headers.append({k.lower(): v for k, v in self.headers.items()})
        code = self.server.codes.pop(0) if self.server.codes else 200
        if code == 0:
            self.server.leaving.wait(20)
            return
        if code == 1:
            self.wfile.write(b"HTTP/1.1 200 OK\r\nx-slow: ")
            while not self.server.leaving.wait(0.05):
                self.wfile.write(b"x")
                self.wfile.flush()
            return
        self.send_response(code)
        self.send_header("location", "/elsewhere")
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None: ...


def sent(*entries: Mapping[str, Any], data: Mapping[str, Any] = FINISHED, **env: str) -> list[str]:
    """Send the end of a run as the entries say; returns what could not be sent."""
    made = Notifications(pauses=QUICK)
    wanted = parse_notify(list(entries), env, "config")
    run = made.of_run(wanted, {"PATH": os.environ["PATH"]}, None)
    run.hear(Event("run_started", "r", {"plan": "p", "title": "t"}))
    run.hear(Event("run_finished", "r", dict(data)))
    run.release()
    return made.finish()


# -- webhooks --------------------------------------------------------------------------------------


def test_a_webhook_gets_the_summary_and_the_headers():
    with Hook() as hook:
        given = {"webhook": "${MY_HOOK}", "headers": {"x-key": "k ${KEY}"}, "token_env": "TOKEN"}
        assert sent(given, MY_HOOK=hook.url, KEY="1", TOKEN="t0") == []
        (body,), (headers,) = hook.bodies, hook.headers
        assert headers["authorization"] == "Bearer t0"
        assert headers["x-key"] == "k 1"
    assert body["version"] == 1
    assert body["event"] == "end"
    assert body["text"] == "p (run r): failed · boom\nnext: fractale show r"
    assert body["status"] == "failed"


def test_a_failure_is_sent_once_and_a_success_not_as_a_failure():
    with Hook() as hook:
        sent({"on": ["end", "failure"], "webhook": hook.url})
        sent({"on": ["failure"], "webhook": hook.url}, data={**FINISHED, "status": "success"})
        interrupted = {"status": "stopped", "error": "interrupted; it is not known whether `a` ran"}
        sent({"webhook": hook.url}, data=interrupted)  # by Ctrl-C: the user knows
        sent({"webhook": hook.url}, data={"status": "waiting"})
        assert [body["event"] for body in hook.bodies] == ["failure"]


@pytest.mark.parametrize(
    ("codes", "requests", "says"),
    [
        ((500,), 2, ""),
        ((503, 429, 502), 3, "HTTP 502; failed 3 of 3 attempts"),
        ((302,), 1, "redirects are not followed"),
        ((404,), 1, "HTTP 404"),
        ((0, 200), 2, ""),
        ((1, 1, 1), 3, "no answer within 0.2 s; failed 3 of 3 attempts"),
    ],
)
def test_a_webhook_that_does_not_take_it(codes, requests, says):
    with Hook(*codes) as hook:
        faults = sent({"webhook": hook.url, "timeout": "200ms"})
        assert len(hook.bodies) == requests
    assert says in "".join(faults)
    assert len(faults) == bool(says)
    assert "T123" not in "".join(faults)  # the path of a webhook is often its password


def test_a_webhook_that_is_not_there_or_not_set():
    with Hook() as hook:
        url = hook.url
    (gone,) = sent({"webhook": url})
    assert "failed 3 of 3 attempts" in gone
    assert "T123" not in gone
    (unset,) = sent({"webhook": "${NO_HOOK}"})
    says = "was not sent: the environment variable `NO_HOOK` is not set"
    assert unset == f"notification by ${{NO_HOOK}} {says}"


# -- commands --------------------------------------------------------------------------------------


def program(folder: Path, text: str) -> list[str]:
    script = folder / "notify.py"
    script.write_text(text)
    return [sys.executable, str(script)]


def test_a_command_gets_json_on_stdin_and_variables_without_a_shell(tmp_path):
    save = "import json, os, sys; json.dump([json.load(sys.stdin), dict(os.environ), sys.argv[1:]]"
    command = [*program(tmp_path, f"{save}, open({str(tmp_path / 'got')!r}, 'w'))"), "$(id) ; a b"]
    assert sent({"command": command, "env_from": ["MY_KEY"]}, MY_KEY="k", OTHER="x") == []
    message, environment, arguments = json.loads((tmp_path / "got").read_text())
    assert message["verdict"] == "failed · boom"
    assert environment["FRACTALE_RUN"] == "r"
    assert environment["FRACTALE_RUN_EVENT"] == "end"
    assert environment["MY_KEY"] == "k"
    assert "OTHER" not in environment
    assert arguments == ["$(id) ; a b"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("import sys; sys.exit('no such user')", "exit code 1: no such user"),
        ("import time; time.sleep(60)", "it did not end within 0.4 s"),
        ("import os, time; os.fork() or time.sleep(3)", ""),  # a child that keeps its streams
    ],
)
def test_a_command_that_does_not_take_it(tmp_path, text, says):
    large = {
        **FINISHED,
        "error": "x" * 300_000,
    }  # more than a pipe takes, and the program reads none
    faults = sent({"command": program(tmp_path, text), "timeout": "400ms"}, data=large)
    assert says in "".join(faults)
    assert len(faults) == bool(says)


def test_a_program_that_is_not_there_is_not_tried_again():
    (fault,) = sent({"command": ["no-such-program", "--token", SECRET]})
    assert "it cannot be started: No such file or directory" in fault
    assert SECRET not in fault
    assert "attempts" not in fault


@pytest.mark.parametrize("before", [0, 190])  # 200 characters are shown: a cut secret is one, too
def test_what_a_command_says_is_shown_without_its_secrets(tmp_path, before):
    says = f"import os, sys; sys.exit('x' * {before} + ' login ' + os.environ['MY_TOKEN'])"
    entry = {"command": program(tmp_path, says), "env_from": ["MY_TOKEN"]}
    (fault,) = sent(entry, MY_TOKEN=SECRET)
    assert " login ***" in fault
    assert "canary" not in fault


# -- messages --------------------------------------------------------------------------------------


def test_a_message_is_bounded_and_without_control_characters():
    many = {f"output {n}": ["\x1b[31m" + "y" * 5000] * 500 for n in range(500)}
    with Hook() as hook:
        assert sent({"webhook": hook.url}, data={**FINISHED, "outputs": many}) == []
        (body,) = hook.bodies
    assert len(json.dumps(body)) <= MOST_BYTES
    assert "\x1b" not in json.dumps(body, ensure_ascii=False)
    huge = {"run": "r", "text": "t", "next": ["a", "b"], "outputs": "z" * MOST_BYTES}
    short = json.loads(encoded(huge))
    assert short == {"run": "r", "text": "t", "next": ["a"], "shortened": True}


@pytest.mark.parametrize("answer", ["<!here>", "s=[x](https://evil.example)"])
def test_nothing_in_the_text_is_markup_of_a_chat(answer):
    said = {
        **FINISHED,
        "error": "<!channel> @all [x](https://evil.example) <https://evil.example|y>",
    }
    with Hook() as hook:
        sent({"webhook": hook.url}, data={**said, "next": [f"fractale answer r '{answer}'"]})
        text = hook.bodies[0]["text"]
    assert not set(text) & set("<>@")
    assert "](" not in text
    assert text.endswith("next: fractale show r")


def test_questions_that_are_asked_together_are_one_message():
    made = Notifications(pauses=QUICK)
    with Hook() as hook:
        entry = {"on": "question", "webhook": hook.url}
        run = made.of_run(parse_notify([entry], {}, "config"), {}, None)
        run.hear(Event("run_started", "r", {"plan": "p"}))
        for number in range(100):
            question = {
                "id": f"q{number}",
                "kind": "approval",
                "tool": "copy",
                "arguments": {"number": number},
                "step": f"s[{number}]",
            }
            run.hear(Event("waiting", "r", {"question": question}))
            run.hear(Event("waiting", "r", {"question": question}))  # asked again
        assert made.finish() == []
        (body,) = hook.bodies
    assert body["text"].startswith("p (run r): `s[0]` asks to call copy, and 99 more questions\n")
    assert body["text"].endswith("next: fractale show r")
    assert body["count"] == 100
    assert len(body["questions"]) == 20


# -- whole runs ------------------------------------------------------------------------------------


@pytest.fixture
def project(tmp_path: Path) -> Iterator[tuple[Path, Hook]]:
    """A directory with a plan, and settings that name a webhook."""
    with Hook(500) as hook:
        folder = tmp_path / ".config" / "fractale"
        folder.mkdir(parents=True)
        entry = {"on": ["end", "question"], "webhook": f"{hook.url}/{SECRET}"}
        missing = {"on": "end", "command": ["no-such-program"]}
        (folder / "config.yaml").write_text(json.dumps({"notify": [entry, missing]}))
        (tmp_path / "asks.yaml").write_text(PLAN)
        yield tmp_path, hook


def fractale(project: Path, *words: str) -> Any:
    own = {"HOME": str(project), "PATH": os.environ["PATH"], "SITE_TOKEN": SECRET}
    return forked.run(words, cwd=project, env={**own, forked.TRUSTED: "1"}, timeout=60)


def test_a_run_that_asks_and_fails(project):
    folder, hook = project
    asked = fractale(folder, "run", "asks.yaml", "--run-id", "r1")
    assert asked.returncode == 4, asked.stderr
    assert [body["event"] for body in hook.bodies] == ["question"] * 2  # 500 the first time
    question = hook.bodies[-1]
    assert question["text"] == (
        "asks (run r1): `review` asks: Is \u2039!here\u203a fine?\n"
        "next: fractale answer r1 review=good\nnext: fractale answer r1 review=bad"
    )
    assert question["next"] == [f"fractale answer r1 review={word}" for word in ("good", "bad")]
    waits = fractale(folder, "resume", "r1")
    assert waits.returncode == 4
    assert len(hook.bodies) == 2  # it was said already
    done = fractale(folder, "resume", "r1", "--answer", "review=good")
    assert done.returncode == 1
    assert hook.bodies[-1]["event"] == "end"
    assert hook.bodies[-1]["verdict"].startswith("failed · step `last` failed")
    words = "notification by no-such-program was not sent: it cannot be started"
    assert f"warning  {words}" in done.stderr
    events = (folder / ".fractale" / "runs" / "r1" / "events.jsonl").read_text().splitlines()
    last = json.loads(events[-1])
    assert last["code"] == "notify"
    assert words in last["message"]
    shown = fractale(folder, "show", "r1")
    assert words in shown.stdout
    assert "failed · step `last` failed" in shown.stdout
    again = fractale(folder, "resume", "r1")  # it has ended, and says nothing again
    assert again.returncode == 1
    assert len(hook.bodies) == 3
    assert fractale(folder, "replay", "r1").returncode == 0
    assert len(hook.bodies) == 3
    assert SECRET not in "".join(events) + shown.stdout + done.stderr


def run_all(settings: Settings, plans: Sequence[str], options: RunOptions) -> list[RunResult]:
    """Run plans at the same time, with the same options."""

    async def run() -> list[RunResult]:
        async with Workspace.open(settings, None) as workspace:
            made = [parse_plan(text, "plan.yaml") for text in plans]
            return await asyncio.gather(*(workspace.runs.start(p, {}, options) for p in made))

    return asyncio.run(run())


def test_a_slow_notification_does_not_slow_the_run(settings: Settings):
    class Person:
        async def answer(self, question: Mapping[str, Any]) -> Any:
            return "good" if question["step"] == "review" else MISSING

    with Hook(0, 0, 0) as hook:
        entry = {"on": ["end", "question"], "webhook": hook.url, "timeout": "60s"}
        wanted = replace(settings, notify=parse_notify([entry], {}, "config"))
        made = Notifications()
        (result,) = run_all(wanted, [PLAN], RunOptions(person=Person(), notifications=made))
        assert result.status == "failed"
        (fault,) = made.finish(0.1)  # the first attempt has not ended
    assert "was not sent: it took too long" in fault


def test_runs_with_the_same_options_have_their_own_notifications(tmp_path, settings: Settings):
    plan = "name: {0}\nsteps:\n  - {{name: s, wait: 100ms}}\n"
    says = f"""
import os, sys
run, plan, record = (os.environ["FRACTALE_RUN" + each] for each in ("", "_PLAN", "_RECORD"))
with open(os.path.join({str(tmp_path)!r}, run), "a") as file:
    print(plan, os.path.basename(record), file=file)
sys.exit(f"no mail for {{run}} with {{os.environ['MY_TOKEN']}}")
"""
    entry = {"on": "end", "command": program(tmp_path, says), "env_from": ["MY_TOKEN"]}
    wanted = parse_notify([entry], {"MY_TOKEN": SECRET}, "config")
    made = Notifications(pauses=QUICK)
    results = run_all(
        replace(settings, notify=wanted),
        [plan.format("one"), plan.format("two")],
        RunOptions(notifications=made),
    )
    faults = made.finish()
    assert len(faults) == 2
    for name, result in zip(("one", "two"), results, strict=True):
        assert (tmp_path / result.run).read_text() == f"{name} {result.run}\n" * 3
        events = [*RunRecords(settings.state_dir).find(result.run).read_events()]
        (warning,) = [each["message"] for each in events if each["event"] == "warning"]
        assert f"no mail for {result.run} with ***" in warning
        assert warning in faults
