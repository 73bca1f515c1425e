"""Recordings: replayed, with one side real, moved elsewhere, damaged; through the command line."""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from fractale.cli import run_command as fractale
from fractale.testing import ModelServer
from fractale.testing.model_server import ModelRequest, Reply

TOOLS = '''
def change(what: str) -> dict:
    """Change something."""
    with open("calls.txt", "a") as file:
        file.write(what + "\\n")
    return {"changed": what.upper() if UPPER else what}

UPPER = False
'''
PLAN = """
name: p
inputs: {what: one}
steps:
  - {name: first, tool: change, inputs: {what: "{{ inputs.what }}"}}
  - {name: think, type: agent, instruction: "Say {{ steps.first.outputs.changed }}.", tools: []}
  - {name: last, tool: change, inputs: {what: "{{ steps.think.outputs.content }}"}}
outputs: {said: "{{ steps.last.outputs.changed }}"}
"""


def thinking(request: ModelRequest) -> Reply:
    del request
    return Reply(text="well thought", input_tokens=7, output_tokens=2)


class Desk:
    """A project's folder, and the command line in it."""

    def __init__(self, folder: Path, processes: Any, capsys: Any) -> None:
        self.folder = folder
        self.processes = processes
        self.capsys = capsys
        self.address = "http://127.0.0.1:9/v1"  # nobody answers there
        (folder / "plans").mkdir()
        (folder / "my_tools.py").write_text(TOOLS)
        (folder / "tools.yaml").write_text("tools: [{path: my_tools.change}]\n")
        self.plan = folder / "plans" / "p.yaml"
        self.plan.write_text(PLAN)

    def environment(self, more: Mapping[str, str]) -> dict[str, str]:
        env = {n: v for n, v in os.environ.items() if not n.startswith("FRACTALE_")}
        env |= {"OPENAI_BASE_URL": self.address, "OPENAI_API_KEY": "k-1234567890"}
        return env | {"HOME": str(self.folder), "NO_COLOR": "1", **more}

    def call(self, *words: str, cwd: Path | None = None) -> tuple[int, str, str]:
        """What a command says that calls no tools."""
        env = self.environment({})
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(cwd or self.folder)
            for name in set(os.environ) - set(env):
                patch.delenv(name)
            for name, value in env.items():
                patch.setenv(name, value)
            code = fractale([*words])
        return code, *self.capsys.readouterr()

    def with_tools(self, *words: str, **more: str) -> tuple[int, str, str]:
        """What a command says that imports the tools: in a process of its own, they are new."""
        env = {n: v for n, v in self.environment(more).items() if not n.startswith("COV")}
        process = self.processes.start([*words], cwd=self.folder, env=env)
        out, err = process.communicate(timeout=120)
        assert "Traceback" not in err, err
        return process.returncode, out, err

    def record(self, **more: str) -> str:
        with ModelServer(thinking) as server:
            self.address = server.openai_url
            words = ("run", "plans/p.yaml", "-r", "tools.yaml", "--model", "openai:scripted")
            code, out, err = self.with_tools(*words, "--json", **more)
        self.address = "http://127.0.0.1:9/v1"
        assert code == 0, out + err
        return json.loads(out.splitlines()[-1])["run"]

    def calls(self) -> list[str]:
        return (self.folder / "calls.txt").read_text().split("\n")[:-1]


@pytest.fixture
def desk(tmp_path: Path, processes: Any, capsys: Any) -> Desk:
    return Desk(tmp_path, processes, capsys)


def test_a_run_is_replayed_offline(desk):
    run = desk.record()
    assert desk.calls() == ["one", "well thought"]
    (desk.folder / "my_tools.py").unlink()  # not even the tools' code is needed
    code, out, err = desk.call("replay", run)
    assert code == 0, out + err
    assert out.splitlines()[-1] == "equal, 14 events"
    code, out, _ = desk.call("replay", "-1", "--json")
    told = json.loads(out)
    assert (code, told["equal"], told["events"], told["of"]) == (0, True, 14, 14)
    assert (told["run"], told["status"], told["divergence"]) == (run, "success", None)
    assert desk.calls() == ["one", "well thought"]


def test_where_it_diverges_is_told_with_both_sides(desk):
    desk.record()
    desk.plan.write_text(PLAN.replace('"{{ inputs.what }}"', '"{{ inputs.what }} more"'))
    code, out, _ = desk.call("replay", "-1")
    assert (code, out) == (0, "equal, 14 events\n")  # by the plan that was run
    code, out, _ = desk.call("replay", "-1", "--today")
    assert code == 1
    assert out == (
        "diverged after 2 of 14 events: other arguments\n"
        "  step `first` calls `change` with other arguments\n"
        "  what  recorded one\n"
        "        now      one more\n"
    )
    code, out, _ = desk.call("replay", "-1", "--plan", "plans/p.yaml", "--json")
    found = json.loads(out)["divergence"]
    assert code == 1
    assert (found["what"], found["step"], found["attempt"]) == ("arguments", "first", 1)
    assert (found["recorded"], found["now"]) == ({"what": "one"}, {"what": "one more"})


def test_one_side_can_be_real(desk):
    desk.record()
    code, out, err = desk.with_tools("replay", "-1", "--live", "tools")
    assert (code, out) == (0, "equal, 14 events\n"), err
    assert desk.calls() == ["one", "well thought"] * 2
    (desk.folder / "my_tools.py").write_text(TOOLS.replace("UPPER = False", "UPPER = True"))
    code, out, _ = desk.with_tools("replay", "-1", "--live", "tools", "--json")
    found = json.loads(out)["divergence"]
    assert (code, found["what"], found["step"]) == (1, "outcome", "first")
    with ModelServer([Reply(text="otherwise")]) as server:
        desk.address = server.openai_url
        code, out, _ = desk.call("replay", "-1", "--live", "model", "--loose", "--json")
        assert len(server.requests) == 1
    found = json.loads(out)["divergence"]
    assert (code, found["what"], found["step"]) == (1, "arguments", "last")
    assert found["now"] == {"what": "otherwise"}
    assert desk.calls() == ["one", "well thought"] * 2 + ["one"]


def test_real_tools_are_given_the_secrets_of_today(desk):
    plan = PLAN.replace("{what: one}", "{key: {secret: true}}")
    desk.plan.write_text(plan.replace("inputs.what", "inputs.key"))
    desk.record(FRACTALE_INPUT_KEY="a-real-secret")
    assert desk.calls()[0] == "a-real-secret"
    assert desk.call("replay", "-1")[:2] == (0, "equal, 14 events\n")
    words = ("replay", "-1", "--live", "tools")
    code, out, err = desk.with_tools(*words, FRACTALE_INPUT_KEY="another-secret")
    assert (code, out) == (0, "equal, 14 events\n"), err
    assert desk.calls()[2] == "another-secret"
    assert "another-secret" not in out + err


@pytest.mark.parametrize("name", ["p.zip", "p"])
def test_a_recording_moves_with_its_plan(desk, tmp_path, name):
    desk.record()
    code, _, err = desk.call("export", "-1", "--recording", f"recordings/{name}")
    assert code == 0, err
    shutil.rmtree(desk.folder / ".fractale")
    code, out, _ = desk.call("test", "recordings")
    assert code == 0
    assert out.split() == ["equal", name, "14", "events", "1", "recording:", "1", "equal"]
    desk.plan.write_text(PLAN.replace("Say ", "Tell me "))
    code, out, _ = desk.call("test", "recordings")
    assert code == 1
    assert "the request to model openai:scripted differs" in out
    assert out.endswith("1 recording: 1 diverged\n")
    code, out, _ = desk.call("test", "recordings", "--json")
    told = json.loads(out)
    assert told["counts"] == {"diverged": 1}
    assert told["recordings"][0]["divergence"]["step"] == "think"
    desk.plan.write_text(PLAN)
    there = tmp_path / "elsewhere"
    shutil.copytree(desk.folder / "recordings", there / "recordings")
    shutil.copytree(desk.folder / "plans", there / "plans")
    (there / "plans" / "p.yaml").write_text(PLAN.replace("inputs.what }}", "inputs.what }}!"))
    code, out, _ = desk.call("test", str(there / "recordings"), cwd=tmp_path.parent)
    assert code == 1
    assert "one!" in out
    code, out, _ = desk.call("replay", str(there / "recordings" / name), cwd=tmp_path.parent)
    assert (code, out.splitlines()[-1]) == (0, "equal, 14 events")


AGENT = """
from fractale.agents.subagent import AgentAnswer, Subagent

open("imported.txt", "a").write("mine\\n")

async def tell(host, request):
    (tool,) = await host.tools()
    result = await host.call_tool(tool, {"what": "by the agent"})
    return AgentAnswer(outputs={"told": result.structured["changed"]})

TELL = Subagent(name="tell", description="Tells.", run=tell)
"""
ASKED = """
name: asked
servers: []
agents: [my_agents.TELL]
steps: [{name: s, agent: tell, instruction: Tell., tools: [change]}]
"""


def test_of_what_a_recording_names_only_what_is_given_is_imported(desk, tmp_path):
    (desk.folder / "my_agents.py").write_text(AGENT)
    (desk.folder / "mine.yaml").write_text("tools: [my_agents.TELL]\n")
    desk.plan.write_text(ASKED)
    words = ("run", "plans/p.yaml", "-r", "tools.yaml", "-r", "mine.yaml", "--yes")
    code, out, err = desk.with_tools(*words)
    assert code == 0, out + err
    assert desk.calls() == ["by the agent"]
    assert desk.call("export", "-1", "--recording", "recordings/a.zip")[0] == 0
    assert desk.call("export", "-1", "--recording", "recordings/b")[0] == 0
    imported = desk.folder / "imported.txt"
    imported.unlink()
    for name in ("recordings/a.zip", "recordings/b"):
        code, out, err = desk.with_tools("replay", name)
        assert code == 0, out + err
        assert "the code that the recording names was not imported" in out
        assert f"-r {desk.folder}/mine.yaml -a my_agents.TELL" in out
        assert "note: results taken from the record: `tell`" in out
        assert not imported.exists()
    code, out, _ = desk.with_tools("test", "recordings")
    assert code == 0
    assert out.count("the code that the recording names was not imported") == 2
    assert not imported.exists()
    for given in (("-r", "mine.yaml"), ("-a", "my_agents.TELL")):
        code, out, err = desk.with_tools("replay", "recordings/a.zip", *given)
        assert (code, out.splitlines()[-1][:5]) == (0, "equal"), out + err
        assert desk.with_tools("test", "recordings", *given)[0] == 0
        assert imported.exists()
    code, out, err = desk.with_tools("replay", "-1")  # one's own run has what it was given
    assert (code, out.splitlines()[-1][:5]) == (0, "equal"), out + err
    assert desk.calls() == ["by the agent"]


@pytest.mark.parametrize("words", [("replay",), ("replay", "--live", "tools"), ("test",)])
def test_a_strangers_recording_imports_nothing(desk, words):
    desk.record()
    assert desk.call("export", "-1", "--recording", "r.zip")[0] == 0
    evil = 'open("imported.txt", "a").write("evil\\n")\n'
    (desk.folder / "evil.py").write_text(evil + "def change(what: str) -> dict: ...\n")
    (desk.folder / "evil.yaml").write_text("tools: [evil.change]\n")
    with zipfile.ZipFile(desk.folder / "r.zip") as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    head = json.loads(files["run.json"])
    head |= {"registries": [str(desk.folder / "evil.yaml")], "agents": ["evil.change"]}
    files["run.json"] = json.dumps(head).encode()
    files["plan.yaml"] = files["plan.yaml"].replace(b"name: p\n", b"name: p\nagents: [evil.x]\n")
    with zipfile.ZipFile(desk.folder / "evil.zip", "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    desk.plan.unlink()
    code, out, err = desk.with_tools(words[0], "evil.zip", *words[1:])
    assert code == (3 if "--live" in words else 0), out + err
    assert ("was not imported" in out + err) is (code != 0)
    assert not (desk.folder / "imported.txt").exists()
    assert len(desk.calls()) == 2


def test_a_strangers_recording_reads_no_file_outside_of_itself(desk):
    job = """
    name: p
    servers: []
    steps:
      - {name: j, job: {scheduler: local, command: [echo, f=1], outputs: {f: 'f=(.*)'}}}
    """
    desk.plan.write_text(job)
    code, out, err = desk.with_tools("run", "plans/p.yaml", "-r", "tools.yaml")
    assert code == 0, out + err
    assert desk.call("export", "-1", "--recording", "r")[0] == 0
    (log,) = (desk.folder / "r").glob("jobs/*/log")
    log.unlink()
    (theirs,) = (desk.folder / ".fractale").glob("runs/*/jobs/*/log")
    theirs.write_text("f=a word that is nobody's business\n")
    code, out, err = desk.call("replay", "r")
    assert (code, out.splitlines()[-1][:5]) == (0, "equal"), out + err  # as it was read then
    code, out, _ = desk.call("replay", "-1")
    assert (code, "nobody's business" in out) == (1, True)


def test_what_was_masked_is_masked_again_and_nothing_else(desk):
    job = """
    name: p
    servers: []
    steps:
      - {name: j, job: {scheduler: local, script: "cat secret.txt; echo plain-word-1234"}}
      - {name: k, tool: change, inputs: {what: "{{ steps.j.outputs.log }}"}}
    """
    desk.plan.write_text(job)
    (desk.folder / "secret.txt").write_text("the key is a-key-of-then!\n")
    words = ("run", "plans/p.yaml", "-r", "tools.yaml")
    code, out, err = desk.with_tools(*words, A_TOKEN="a-key-of-then")
    assert code == 0, out + err
    assert "a-key-of-then" not in out + err
    assert desk.call("export", "-1", "--recording", "r.zip")[0] == 0
    for more in ({"A_TOKEN": "a-key-of-then"}, {"A_TOKEN": "plain-word-1234"}, {}):
        for run in ("-1", "r.zip"):
            code, out, err = desk.with_tools("replay", run, **more)
            assert (code, out.splitlines()[-1][:5]) == (0, "equal"), (more, run, out + err)


def test_every_run_of_a_state_folder_is_a_recording(desk):
    runs = {desk.record(), desk.record()}
    code, out, _ = desk.call("test", ".fractale", "--json")
    told = json.loads(out)
    assert code == 0
    assert {each["run"] for each in told["recordings"]} == runs
    assert told["counts"] == {"equal": 2}


def test_a_plan_that_is_gone_is_the_one_that_was_recorded(desk):
    desk.record()
    desk.plan.unlink()
    code, out, _ = desk.call("test", ".fractale")
    assert code == 0
    assert "p.yaml not found; the recorded plan was used" in out
    code, _, err = desk.call("replay", "-1", "--today")
    assert code == 2
    assert "was not found" in err


def test_a_plan_that_is_invalid_today_fails_its_recordings_only(desk):
    run = desk.record()
    other = desk.folder / "plans" / "q.yaml"
    other.write_text(PLAN)
    desk.plan.write_text(PLAN.replace("tool: change", "tool: erase", 1))
    head = desk.folder / ".fractale" / "runs" / run / "run.json"
    second = head.parent.with_name("other")
    shutil.copytree(head.parent, second)
    data = json.loads(head.read_text()) | {"file": str(other)}
    (second / "run.json").write_text(json.dumps(data))
    code, out, _ = desk.call("test", ".fractale")
    assert code == 1
    assert "invalid plan" in out
    assert "erase" in out
    assert out.endswith("2 recordings: 1 equal, 1 invalid plan\n")


def test_what_can_not_be_replayed_is_said_with_its_code(desk):
    run = desk.record()
    folder = desk.folder / ".fractale" / "runs" / run
    (folder / "tools.json").unlink()
    code, _, err = desk.call("replay", run)
    assert code == 2
    assert "does not list the tools" in err
    code, out, _ = desk.call("test", ".fractale", "--json")
    told = json.loads(out)
    assert (code, told["counts"]) == (1, {"not-recorded": 1})
    assert told["recordings"][0]["error"]["code"] == "no-tools"
    code, _, err = desk.call("export", run, "--recording", "r.zip")
    assert code == 2
    assert not (desk.folder / "r.zip").exists()


def test_files_that_are_no_recordings(desk):
    folder = desk.folder / "recordings"
    folder.mkdir()
    code, _, err = desk.call("test", "recordings")
    assert (code, "no recordings found in" in err) == (2, True)
    (folder / "broken.zip").write_bytes(b"PK\x03\x04 no zip")
    with zipfile.ZipFile(folder / "sly.zip", "w") as archive:
        archive.writestr("../../sly.txt", "out")
    with zipfile.ZipFile(folder / "empty.zip", "w") as archive:
        archive.writestr("note.txt", "nothing")
    code, out, _ = desk.call("test", "recordings", "--json")
    told = json.loads(out)
    assert (code, told["counts"]) == (1, {"not-recorded": 3})
    assert {each["error"]["code"] for each in told["recordings"]} == {"bad-recording"}
    assert not list(desk.folder.parent.glob("sly.txt"))
    code, out, _ = desk.call("test", "recordings/empty.zip")
    assert (code, "cannot be replayed" in out) == (1, True)
    assert "recordings/empty.zip is not a recording" in out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["replay", "nothing"], "nothing"),
        (["replay", "nothing.zip"], "file nothing.zip not found"),
        (["replay", "."], ". is not a recording"),
        (["test", "nowhere"], "nowhere"),
    ],
)
def test_what_is_not_there_is_told(desk, words, says):
    code, _, err = desk.call(*words)
    assert (code, says in err) == (2, True), err


def test_a_recording_is_written_where_nothing_is(desk):
    desk.record()
    (desk.folder / "full").mkdir()
    (desk.folder / "full" / "file").write_text("mine")
    code, _, err = desk.call("export", "-1", "--recording", "full")
    assert (code, "already exists" in err) == (2, True)
    code, _, err = desk.call("replay", "-1", "--today", "--plan", "plans/p.yaml")
    assert (code, "exclude each other" in err) == (2, True)
    assert desk.call("export", "-1", "--recording", "r.zip")[0] == 0
    assert (desk.folder / "r.zip").stat().st_mode & 0o077 == 0
    with zipfile.ZipFile(desk.folder / "r.zip") as archive:
        names = set(archive.namelist())
    assert {"run.json", "events.jsonl", "journal.jsonl", "tools.json", "plan.yaml"} <= names
    assert not [name for name in names if name.startswith(("lock", "checkpoints"))]
