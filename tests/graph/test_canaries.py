"""30 secrets in all places where a person can put one: none is in what fractale tells or keeps.

A real server says each of them in eight forms; a scripted model over HTTP is the provider.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import pty
import re
import select
import subprocess
import sys
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote, quote_plus

import pytest

import forked
from fractale.errors import AnswerError
from fractale.plan.build import load_plan
from fractale.questions import Answers
from fractale.record.recordings import open_recording
from fractale.replaying.replay import replay
from fractale.runs import RunOptions
from fractale.runs.workspace import Workspace
from fractale.settings import load_settings
from fractale.testing.model_server import ModelServer, Reply

SERVER = Path(__file__).parents[1] / "support" / "servers" / "canary_server.py"
PEM = "-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----".format(
    "\n".join(base64.b64encode(bytes([n] * 7 + list(range(41)))).decode() for n in range(60, 66))
)
BY_NAME = [
    "OPENAI_API_KEY SITE_TOKEN DB_PASSWORD GITHUB_PAT DB_PASS DB_PWD GPG_PASSPHRASE SERVICE_JWT",
    "SESSION_COOKIE SERVICE_AUTH CLOUD_CREDS SLACK_WEBHOOK_URL SENTRY_DSN PGPASSWORD",
]
SHAPES = [
    "canary-{:02d}-7f3a9c",
    'cn"{:02d}\\/%+&<q>=x9',
    "can ary {:02d} two words",
    "Canäry{:02d}ß9x日本",
]


def canary(number: int, shape: int | None = None) -> str:
    return SHAPES[number % len(SHAPES) if shape is None else shape].format(number)


class Site:
    """A project with secrets wherever there can be one."""

    def __init__(self, folder: Path, model_url: str) -> None:
        self.folder = folder
        names = " ".join(BY_NAME).split()
        self.canaries = {name: canary(number, 0 if number == 0 else None)
                         for number, name in enumerate(names)}  # fmt: skip
        self.env = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder / "home"),
            "OPENAI_BASE_URL": model_url,
            "NEEDED_ADDRESS": "an-address-of-mine",
            **self.canaries,
        }
        by_value = {
            "DATABASE_URL": ("mysql://anna:{}@db/runs", canary(14, 0)),
            "BROKER": ("amqp://anna:{}@mq:5672/", canary(15, 0)),
            "TLS_PEM": ("{}", PEM),
            "GIT_REMOTE": ("{}", "ghp_0123456789abcdefCANARY"),
            "SOMETHING": ("{}", "eyJhbGciOiJIUzI1.eyJzdWIiOiJjYW5hcnki.c2lnbmF0dXJl"),
            "FRACTALE_INPUT_PASSWORD": ("{}", canary(19, 1)),
            "FRACTALE_INPUT_UNUSED": ("{}", canary(20, 3)),
            "TOOL_CODE": ("{}", canary(21, 0)),  # given by `env_from`
            "HEADER_VALUE": ("{}", canary(22, 0)),  # named in a header
            "NAMED_BY_TOKEN_ENV": ("{}", canary(23, 0)),
        }
        for name, (form, value) in by_value.items():
            self.env[name] = form.format(value)
            self.canaries[name] = value
        given = {
            "env MYKEY": canary(24, 0),
            "env PLAIN": canary(25, 0),
            "args =": canary(26, 0),
            "args": canary(27, 0),
            "header": canary(28, 0),
            "url password": canary(29, 0),
            "url query": canary(30, 0),
        }
        self.canaries |= given
        self.listed = folder / "canaries.json"
        self.listed.write_text(json.dumps(self.canaries))
        arguments = [str(SERVER), str(self.listed), f"--api-key={given['args =']}"]
        config = {
            "model": "openai:scripted",
            "policy": {"yes_covers": "all"},
            "servers": {
                "own": {
                    "command": sys.executable,
                    "args": [*arguments, "--token", given["args"]],
                    "env": {"MYKEY": given["env MYKEY"], "PLAIN": given["env PLAIN"]},
                    "env_from": ["TOOL_CODE"],
                },
                "far": {
                    "url": f"http://anna:{given['url password']}@127.0.0.1:9/mcp"
                    f"?api_key={given['url query']}",
                    "headers": {
                        "X-Api-Key": given["header"],
                        "Authorization": "Bearer ${HEADER_VALUE}",
                    },
                    "token_env": "NAMED_BY_TOKEN_ENV",
                },
            },
        }
        (folder / "home/.config/fractale").mkdir(parents=True)
        (folder / "home/.config/fractale/config.yaml").write_text(json.dumps(config))

    def run(self, *words: str) -> str:
        """What a command says; no command may say more than is shown here."""
        ended = forked.run(words, cwd=self.folder, env=self.env)
        return f"$ {words} -> {ended.returncode}\n{ended.stdout}\n{ended.stderr}"


PLAN = """
name: canaries
servers: [own]
inputs: {password: {secret: true, required: true}}
steps:
  - {name: say, tool: say, inputs: {password: "{{ inputs.password }}"}, transitions: {success: noise}}
  - {name: noise, tool: noise}
  - {name: got, tool: environment}
  - {name: job, job: {scheduler: local, command: [env]}}
  - {name: agent, instruction: "Use {{ inputs.password }} and {{ steps.say.outputs.text }}", tools: [look, fail, say]}
  - {name: plain, instruction: "Say {{ inputs.password }}", allow_tools: false}
  - {name: fail, tool: fail, inputs: {password: "{{ inputs.password }}"}, transitions: {failure: end}}
  - {name: end, tool: end}
"""  # noqa: E501


def written(secret: str) -> dict[str, str]:
    """The forms that nothing may have: in clear, and as JSON, URL and base64 have it."""
    found = {
        "raw": secret,
        "json": json.dumps(secret)[1:-1],
        "json in json": json.dumps(json.dumps(secret)[1:-1])[1:-1],
        "url": quote(secret, safe=""),
        "query": quote_plus(secret),
        "hex": secret.encode().hex(),
    }
    for number, line in enumerate(secret.splitlines() if "\n" in secret else ()):
        if not line.startswith("-----"):
            found[f"line {number}"] = line
    for offset in range(3):
        text = base64.b64encode(bytes(offset) + secret.encode()).decode()
        core = text[-(-offset * 8 // 6) : (offset + len(secret.encode())) * 8 // 6]
        found[f"base64 at {offset}"] = core
        found[f"base64url at {offset}"] = core.replace("+", "-").replace("/", "_")
    return found


def leaks(canaries: dict[str, str], places: dict[str, bytes]) -> list[str]:
    return [
        f"{name} as {form} in {place}"
        for name, secret in canaries.items()
        for form, text in written(secret).items()
        for place, data in places.items()
        if text.encode() in data
    ]


def files(folder: Path) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for path in folder.rglob("*"):
        if path.is_file():
            found[str(path.relative_to(folder))] = path.read_bytes()
        if path.suffix == ".zip":
            with zipfile.ZipFile(path) as archive:
                found |= {f"{path.name}!{n}": archive.read(n) for n in archive.namelist()}
    return found


def processes(seen: set[bytes], own: int) -> None:
    """The arguments of fractale's processes; those of the server are the person's own."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes()
            parent = (path.parent / "stat").read_text().rpartition(")")[2].split()[1]
        except OSError:
            continue
        if SERVER.name.encode() not in words and str(own) in (path.parent.name, parent):
            seen.add(words)


def said(request) -> Reply | str:
    """The agent calls each tool once; whatever is asked, the model knows secrets."""
    called = sum(message["role"] == "tool" for message in request.body["messages"])
    if request.body.get("tools") and not called:
        return Reply(tool_calls=[("look", {"at": "x"}), ("fail", {"password": "x"}), ("say", {})])
    return f"The password may be {canary(19, 1)} or {canary(2)} or {PEM} so"


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """Site, what was told and kept at all places, and what the model was sent."""
    folder = tmp_path_factory.mktemp("canaries")
    with ModelServer(said) as model:
        site = Site(folder, model.openai_url)
        (folder / "plan.yaml").write_text(PLAN)
        process = forked.start(["run", "plan.yaml", "--yes", "--json"], cwd=folder, env=site.env)
        seen: set[bytes] = set()
        with ThreadPoolExecutor() as reading:  # nobody else empties its pipes
            ended = reading.submit(process.communicate)
            while not ended.done():
                processes(seen, process.pid)
                time.sleep(0.05)
        stdout, stderr = ended.result()
        places = {"run --json": stdout.encode(), "run, stderr": stderr.encode()}
        places |= {f"process {n}": words for n, words in enumerate(seen)}
        commands = [
            ["run", "plan.yaml", "--yes"],
            ["show", "-1"],
            ["show", "-1", "--json"],
            *(["show", "-1", name] for name in ("say", "noise", "agent", "plain", "fail", "end")),
            ["diff", "-1", "-2"],
            ["why", "-1", "--since", "-2"],
            ["runs"],
            ["graph", "plan.yaml"],
            ["freeze", "-1", "-o", str(folder / "out/frozen.yaml")],
            ["export", "-1", "--graph", "json"],
            ["export", "-1", "--transitions", str(folder / "out/transitions.jsonl")],
            ["export", "-1", "--recording", str(folder / "out/recording.zip")],
            ["export", "-1", "--recording", str(folder / "out/recording")],
            ["list"],
            ["list", "--json"],
            ["config"],
            ["config", "--json"],
            ["doctor", "--json"],
            ["doctor", "plan.yaml"],
            ["validate", "plan.yaml"],
            ["run", "plan.yaml", "--dry-run"],
            ["config", "--no-such-option"],
        ]
        (folder / "out").mkdir()
        places |= {" ".join(words): site.run(*words).encode() for words in commands}
        places |= {f"file {name}": data for name, data in files(folder / ".fractale").items()}
        places |= {f"out {name}": data for name, data in files(folder / "out").items()}
        sent = [json.dumps(request.body, ensure_ascii=False) for request in model.requests]
        raw = [text for request in model.requests for text in texts_in(request.body)]
    return site, places, [*sent, *raw]


def texts_in(value):
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for each in value.values():
            yield from texts_in(each)
    elif isinstance(value, list):
        for each in value:
            yield from texts_in(each)


def test_no_canary_is_in_anything_that_is_told_or_kept(told):
    site, places, _ = told
    assert len(site.canaries) >= 30
    assert not leaks(site.canaries, places)


def test_what_was_looked_at_is_what_there_is(told):
    """Else that there is no canary would mean nothing."""
    _, places, sent = told
    events = [json.loads(line) for line in places["run --json"].decode().splitlines()]
    ends = {e["step"]: e["outcome"] for e in events if e["event"] == "step_finished"}
    assert ends == {
        **dict.fromkeys(["say", "noise", "got", "job", "agent", "plain"], "success"),
        **dict.fromkeys(["fail", "end"], "failure"),
    }
    kept = " ".join(places)
    for name in (
        "checkpoints",
        "events.jsonl",
        "journal.jsonl",
        "outputs/",
        "log",
        "recording.zip!",
    ):
        assert name in kept
    assert kept.count("process ") >= 1
    assert b"***" in places["run --json"]
    assert b"***" in places["config"]
    assert len([e for e in events if e["event"] == "log"]) > 100
    assert len(sent) > 3


def test_models_are_sent_no_canary(told):
    site, _, sent = told
    assert not leaks(site.canaries, {f"request {n}": t.encode() for n, t in enumerate(sent)})
    assert any("***" in text for text in sent)


def test_a_piece_of_a_model_s_text_has_no_part_of_a_secret(told):
    _, places, _ = told
    events = [json.loads(line) for line in places["run --json"].decode().splitlines()]
    text = "".join(e["text"] for e in events if e["event"] == "model_text")
    assert "The password may be *** or *** or" in text
    for piece in (e["text"] for e in events if e["event"] == "model_text"):
        assert "two words" not in piece


def test_servers_and_jobs_get_what_they_need_and_no_secrets(told):
    site, places, _ = told
    events = [json.loads(line) for line in places["run --json"].decode().splitlines()]
    outputs = {e["step"]: e["outputs"] for e in events if e["event"] == "step_finished"}
    names = set(outputs["got"]["names"])
    assert {"PATH", "HOME", "MYKEY", "PLAIN", "TOOL_CODE"} <= names
    unwanted = (site.env.keys() & site.canaries.keys()) - {"TOOL_CODE"}
    assert not names & unwanted
    assert "NEEDED_ADDRESS" not in names, "it is neither in the list nor in `env_from`"
    log = next(data for name, data in places.items() if re.search(r"file .*jobs/[^/]*/log$", name))
    assert b"NEEDED_ADDRESS=" in log, "a job's script needs what its site has set"
    assert not [name for name in site.canaries if f"\n{name}=".encode() in b"\n" + log]


def test_a_server_that_ends_says_which_variable_it_was_not_given(told):
    _, places, _ = told
    shown = places["run plan.yaml --yes"].decode() + places["show -1 end"].decode()
    assert "env_from" in shown + places["run --json"].decode()


# -- what a server asks for in secret -------------------------------------------------------------

LOGIN = "name: login\nsteps: [{name: ask, tool: login}]\n"
TYPED = "typed-canary-99-8c1"


class Typist:
    """A person who answers; keeps what they were asked."""

    def __init__(self, answer):
        self.asked, self._answer = [], answer

    async def answer(self, question):
        self.asked.append(question)
        return self._answer


@pytest.fixture
async def desk(tmp_path):
    """Starts and resumes runs of a server that asks for a password."""
    listed = tmp_path / "canaries.json"
    listed.write_text(json.dumps({"x": "of-no-interest-1"}))
    (tmp_path / "plan.yaml").write_text(LOGIN)
    entry = {"own": {"command": sys.executable, "args": [str(SERVER), str(listed)]}}
    (tmp_path / ".fractale").mkdir(mode=0o700)
    (tmp_path / "home/.config/fractale").mkdir(parents=True)
    (tmp_path / "home/.config/fractale/config.yaml").write_text(json.dumps({"servers": entry}))
    env = {"HOME": str(tmp_path / "home"), "PATH": os.environ["PATH"]}
    settings = load_settings(env, tmp_path)
    events = []

    async def go(run=None, **options):
        given = RunOptions(listeners=[lambda e: events.append(e.as_dict())], **options)
        async with Workspace.open(settings, masker=given.masker) as workspace:
            runs = workspace.runs
            if run:
                return await runs.resume(run, given)
            return await runs.start(load_plan(tmp_path / "plan.yaml"), {}, given)

    go.events, go.folder, go.env, go.settings = events, tmp_path, env, settings
    return go


def kept_of(desk) -> dict[str, bytes]:
    return {**files(desk.folder / ".fractale"), "events": json.dumps(desk.events).encode()}


ANSWER = {"user": "anna", "password": TYPED}


async def test_a_password_reaches_the_server_and_is_kept_nowhere(desk):
    result = await desk(person=Typist(ANSWER))
    assert result.status == "success", result.error
    (ended,) = [e for e in desk.events if e["event"] == "tool_finished"]
    assert f'"length":{len(TYPED)}' in ended["text"].replace(" ", "")
    assert not leaks({"typed": TYPED}, kept_of(desk))
    (answered,) = [e for e in desk.events if e["event"] == "answered"]
    assert answered["answer"]["content"] == {"user": "anna", "password": "***"}


async def test_a_run_that_waits_for_a_password_takes_it_from_a_person_alone(desk):
    waiting = await desk()
    assert waiting.status == "waiting"
    for given in ({"replies": Answers({"ask": ANSWER})}, {"answers": Answers({"ask": ANSWER})}):
        with pytest.raises(AnswerError, match="asks for a secret") as refused:
            await desk(waiting.run, **given)
        assert "resume" in (refused.value.hint or "")
    assert (await desk(waiting.run, yes=True)).status == "waiting", "--yes has no password"
    result = await desk(waiting.run, person=Typist(ANSWER))
    assert result.status == "success", result.error
    assert not leaks({"typed": TYPED}, kept_of(desk))
    with open_recording(desk.folder / ".fractale/runs" / waiting.run) as recording:
        assert (await replay(recording, desk.settings)).divergence is None


async def test_no_to_a_password_may_be_said_beforehand(desk):
    result = await desk(answers=Answers({"ask": "decline"}))
    assert result.status == "success", result.error


async def test_the_next_command_of_a_run_that_waits_has_no_place_for_the_password(desk):
    ended = forked.run(["run", "plan.yaml"], cwd=desk.folder, env=desk.env)
    assert ended.returncode == 4
    assert "--answer" not in ended.stdout + ended.stderr
    refused = forked.run(
        ["resume", "-1", "--answer", f"ask={json.dumps(ANSWER)}"], cwd=desk.folder, env=desk.env
    )
    assert refused.returncode == 2
    assert "asks for a secret" in refused.stderr
    assert TYPED not in refused.stderr + refused.stdout


async def test_after_a_kill_the_password_is_asked_for_again(desk):
    """The record has its place only: what a person typed died with the process."""
    waiting = await desk()

    class Killed(Exception):
        pass

    class Dying(Typist):
        async def answer(self, question):
            await super().answer(question)
            raise Killed

    with pytest.raises(Killed):
        await desk(waiting.run, person=Dying(ANSWER))
    typist = Typist(ANSWER)
    result = await desk(waiting.run, person=typist)
    assert (result.status, len(typist.asked)) == ("success", 1)


async def test_a_stored_placeholder_is_never_sent_as_the_password(desk):
    """Killed in the call, after the answer was given: the checkpoint has ``***`` in its place."""
    waiting = await desk()
    before = len(desk.events)

    async def invoke(graph, *words, **options):
        call = asyncio.ensure_future(graph.ainvoke(*words, **options))
        while not any(  # noqa: ASYNC110 - events of the run set no event of ours
            e["event"] == "tool_started" for e in desk.events[before:]
        ):
            await asyncio.sleep(0.001)
        call.cancel()
        return await call

    with pytest.raises(asyncio.CancelledError):
        await desk(waiting.run, person=Typist(ANSWER), invoke=invoke)
    assert (await desk(waiting.run)).status == "waiting"
    typist = Typist(ANSWER)
    result = await desk(waiting.run, person=typist)
    assert (result.status, len(typist.asked)) == ("success", 1)
    ended = [e["text"] for e in desk.events if e["event"] == "tool_finished"]
    assert f'"length":{len(TYPED)}' in ended[-1].replace(" ", "")
    assert not any('"length":3,' in text.replace(" ", "") for text in ended)
    assert not leaks({"typed": TYPED}, kept_of(desk))


def test_what_is_typed_in_secret_is_not_shown_by_the_terminal(tmp_path):
    """A real terminal: the password is typed and not echoed; the next line is, again."""
    program = (
        "import asyncio\n"
        "from fractale.cli.dialogue import fill_form\n"
        "from fractale.cli.terminal import TerminalInput\n"
        "schema = {'type': 'object', 'required': ['password', 'user'], 'properties': "
        "{'password': {'type': 'string', 'format': 'password'}, 'user': {'type': 'string'}}}\n"
        "answer = asyncio.run(fill_form(TerminalInput({}), schema))\n"
        f"print('RIGHT' if answer['content']['password'] == {TYPED[::-1]!r}[::-1] else 'WRONG')\n"
    )
    parent, child = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdin=child, stdout=child, stderr=child
    )
    os.close(child)
    shown = b""
    for wait, line in ((b"neither shown", TYPED), (b"user", "anna"), (b"y send it", "y")):
        shown = _read_until(parent, shown, wait)
        time.sleep(0.1)
        os.write(parent, f"{line}\n".encode())
    shown = _read_until(parent, shown, b"RIGHT")
    assert process.wait(20) == 0
    os.close(parent)
    assert TYPED.encode() not in shown
    assert b"anna" in shown
    assert b"***" in shown


def _read_until(descriptor: int, shown: bytes, wanted: bytes) -> bytes:
    deadline = time.monotonic() + 30
    while wanted not in shown and time.monotonic() < deadline:
        if select.select([descriptor], [], [], 0.2)[0]:
            shown += os.read(descriptor, 65536)
    assert wanted in shown, shown
    return shown
