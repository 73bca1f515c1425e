"""Opening what a run needs: every registry once, nothing that was not named, the same on resume."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest

import fractale
from fractale.errors import PlanError, SettingsError
from fractale.plan.build import load_plan, parse_plan
from fractale.runs import Extensions, Workspace
from fractale.runs.workspace import as_started
from fractale.settings import ServerSettings, Settings

PLAN = """
name: hello
steps:
  - {name: greet, tool: greet, inputs: {who: world}}
  - {name: hold, tool: greet, inputs: {who: again}, approve: always}
outputs: {text: "{{ steps.greet.outputs.text }}"}
"""
TOOLS = '''
from pathlib import Path
from typing import ClassVar

with Path(__file__).with_name("imports.log").open("a") as log:
    log.write("imported\\n")

def greet(who: str) -> dict:
    """Say hello."""
    return {"text": f"hello {who}"}
'''
WATCH = """
import os, sys

def watch(event, arguments):
    if event == "open" and str(arguments[0]).endswith("tools.yaml"):
        descriptor = os.open(os.environ["READS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(descriptor, b"read\\n")
        os.close(descriptor)

sys.addaudithook(watch)
"""


class Project:
    """A directory with a plan, a registry and its module; counts reads and imports of the two."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "hello.yaml").write_text(PLAN)
        (folder / "greetings.py").write_text(TOOLS)
        (folder / "tools.yaml").write_text("tools: [greetings.greet]\n")
        (folder / "watch").mkdir()
        (folder / "watch/sitecustomize.py").write_text(WATCH)

    def fractale(self, *words: str) -> subprocess.CompletedProcess[str]:
        env = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "PYTHONPATH": str(self.folder / "watch"),
            "READS": str(self.folder / "reads.log"),
            "FRACTALE_TRUST_PROJECT": "1",
        }
        return subprocess.run(
            [sys.executable, "-m", "fractale.cli", *words],
            cwd=self.folder,
            env=env,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    def counted(self) -> tuple[int, int]:
        """How often the registry was read and its module imported; begins anew."""
        files = [self.folder / name for name in ("reads.log", "imports.log")]
        counts = [len(file.read_text().split()) if file.exists() else 0 for file in files]
        for file in files:
            file.unlink(missing_ok=True)
        return counts[0], counts[1]

    @property
    def run(self) -> str:
        (record,) = (self.folder / ".fractale/runs").iterdir()
        return record.name

    def registry(self) -> Extensions:
        return Extensions(registries=[self.folder / "tools.yaml"])


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def test_a_run_imports_each_registry_once_and_reads_it_again_only_for_its_checksum(project):
    """A run that begins keeps the checksums of its registries, for `fractale why`."""
    done = project.fractale("run", "hello.yaml", "-r", "tools.yaml")
    assert (done.returncode, project.counted()) == (4, (2, 1)), done.stderr
    done = project.fractale("resume", project.run, "--answer", "hold=yes")
    assert (done.returncode, project.counted()) == (0, (1, 1)), done.stderr
    done = project.fractale("fork", project.run, "--at", "hold", "--answer", "hold=yes")
    assert (done.returncode, project.counted()) == (0, (2, 1)), done.stderr


@pytest.mark.parametrize(
    ("words", "imports"),
    [
        (("list",), 1),
        (("list", "--policy"), 1),
        (("validate", "hello.yaml"), 1),
        (("validate", "hello.yaml", "--online"), 1),
        (("run", "hello.yaml", "--dry-run"), 1),
        (("agent", "ask", "--help"), 1),
    ],
)
def test_other_commands_read_each_registry_once(project, words, imports):
    command, *rest = words
    done = project.fractale(command, "-r", "tools.yaml", *rest)
    assert (done.returncode, project.counted()) == (0, (1, imports)), done.stderr


def test_commands_about_the_record_read_no_registry(project):
    project.fractale("run", "hello.yaml", "-r", "tools.yaml")
    project.counted()
    for words in (("runs",), ("show", project.run), ("replay", project.run)):
        project.fractale(*words)
    reads, imports = project.counted()
    assert (reads, imports) == (1, 1)  # the replay's: a sub-agent may be among its tools


async def test_everything_is_opened_together_and_closed_at_the_end(project, monkeypatch):
    monkeypatch.syspath_prepend(str(project.folder))
    settings = replace(Settings(), state_dir=project.folder / ".fractale")
    plan = load_plan(project.folder / "hello.yaml")
    async with Workspace.open(settings, plan, project.registry(), yes=True) as workspace:
        assert [tool.name for tool in await workspace.toolbox.tools()] == ["greet"]
        assert workspace.runs is workspace.runs
        result = await workspace.runs.start(plan)
    assert result.outputs == {"text": "hello world"}
    assert not [server for server in await workspace.toolbox.servers() if server.connected]


async def test_what_was_read_is_what_runs(project, monkeypatch):
    """The registry changes after its user saw what is in it: the run does not read it again."""
    monkeypatch.syspath_prepend(str(project.folder))
    extensions = project.registry()
    assert [entry.path for file in extensions.files for entry in file.entries] == [
        "greetings.greet"
    ]
    (project.folder / "tools.yaml").write_text("tools: [os.system]\n")
    async with Workspace.open(Settings(), extensions=extensions) as workspace:
        assert [tool.name for tool in await workspace.toolbox.tools()] == ["greet"]


async def test_a_toolbox_of_the_caller_is_used_in_place_of_all_servers_and_left_open(project):
    from fractale.testing import FakeToolServer

    tools, dead = FakeToolServer(), ServerSettings(name="dead", transport="stdio", command="false")
    settings = replace(Settings(), servers={"dead": dead})
    async with Workspace.open(settings, tools=tools) as workspace:
        assert workspace.toolbox is tools


async def test_a_wrong_registry_is_reported_before_a_server_starts(project):
    (project.folder / "tools.yaml").write_text("tools: [{path: a.b, nmae: c}]\n")
    started = project.folder / "started"
    touch = ServerSettings(name="s", transport="stdio", command="touch", args=(str(started),))
    with pytest.raises(PlanError, match="nmae"):
        async with Workspace.open(
            replace(Settings(), servers={"s": touch}), extensions=project.registry()
        ):
            pass
    assert not started.exists()


async def test_a_server_that_only_the_plan_knows_is_named(project):
    plan = parse_plan("name: p\nservers: [hpc]\nsteps: [{name: s, tool: t}]\n")
    with pytest.raises(SettingsError, match="needs server `hpc`"):
        async with Workspace.open(Settings(), plan):
            pass


class TestAsStarted:
    HEAD: ClassVar = {
        "registries": ["/r.yaml"],
        "agents": ["a.B"],
        "model": "openai:x",
        "store": "sqlite",
    }

    def test_a_run_is_resumed_with_what_it_was_started_with(self):
        settings, extensions = as_started(Settings(), self.HEAD)
        assert (extensions.paths, extensions.agents) == (["/r.yaml"], ["a.B"])
        assert settings.model_spec == "openai:x"

    def test_what_the_command_line_names_counts_in_place_of_it(self):
        given = Extensions(registries=["mine.yaml"])
        flags = Settings().with_flags(model="openai:y", store="postgresql://h/d")
        settings, extensions = as_started(flags, self.HEAD, given)
        assert (extensions.paths, extensions.agents) == (["mine.yaml"], ["a.B"])
        assert (settings.model_spec, settings.store) == ("openai:y", "postgresql://h/d")

    def test_a_store_on_another_server_is_opened_unless_its_password_is_unknown(self):
        there = {**self.HEAD, "store": "postgresql://user@host/runs"}
        assert as_started(Settings(), there)[0].store == "postgresql://user@host/runs"
        with pytest.raises(SettingsError, match="does not store its password"):
            as_started(Settings(), {**there, "store": "postgresql://user:***@host/runs"})


async def test_a_kept_run_of_python_is_resumed_with_its_registries(project, monkeypatch):
    monkeypatch.syspath_prepend(str(project.folder))
    monkeypatch.chdir(project.folder)
    settings = replace(Settings(), state_dir=project.folder / ".fractale")
    result = await fractale.arun(
        project.folder / "hello.yaml",
        registries=[project.folder / "tools.yaml"],
        settings=settings,
        keep=True,
    )
    assert result.status == "waiting"
    head = json.loads((result.record / "run.json").read_text())
    assert head["registries"] == [str(project.folder / "tools.yaml")]
    done = project.fractale("resume", result.run, "--answer", "hold=yes")
    assert done.returncode == 0, done.stderr
