"""`fractale init` and `fractale new`: what they make is whole, and nothing of the user is lost."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import forked
from fractale.findings import Finding
from fractale.scaffold.project import FILES, PLAN, RECORDING, REGISTRY, SCHEMA, filled
from fractale.settings import load_settings
from fractale.site.model import Site

HOSTILE = 'import os\nopen("imported", "w").close()\n'
CLUSTER = Site(
    host="login1\nprovider: evil",
    looked=0.0,
    seconds=0.0,
    sections={
        "machine": (Finding(name="m", details={"cores_usable": 8}),),
        "schedulers": (
            Finding(
                name="slurm",
                version="22.05\x1b[31m",
                evidence="sinfo answered\nmodel: evil",
                details={
                    "queues": [
                        {"name": "debug", "default": False},
                        {"name": "batch", "default": True, "cores_per_node": 64},
                        {"name": "x\nnotify: []"},
                    ]
                },
            ),
        ),
    },
)
NOWHERE = Site(host="laptop", looked=0.0, seconds=0.0, sections={})


def environment(folder: Path) -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    measured = {k: v for k, v in os.environ.items() if k.startswith("COVERAGE_PROCESS_")}
    return {**kept, **measured, "HOME": str(folder.parent)}


def fractale(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return forked.run(words, cwd=folder, env=environment(folder), timeout=120)


def ok(folder: Path, *words: str) -> str:
    ran = fractale(folder, *words)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def pytest_in(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *words]
    env = environment(folder)
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    """A new project, and what the command said; tests copy it before they change it."""
    root = tmp_path_factory.mktemp("new") / "melt"
    root.parent.joinpath(".config").mkdir()
    said = json.loads(ok(root.parent, "init", "melt", "--json"))
    return root, said


@pytest.fixture
def project(started: tuple[Path, dict], tmp_path: Path) -> Path:
    return Path(shutil.copytree(started[0], tmp_path / "melt"))


def files_in(folder: Path) -> dict[str, bytes]:
    found = [each for each in folder.rglob("*") if each.is_file() and each.suffix != ".pyc"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def commands_of_ci(folder: Path) -> list[str]:
    """The shell lines of both CI files, which are the same."""
    github = yaml.safe_load((folder / ".github/workflows/fractale.yml").read_text())
    lines = [step["run"] for step in github["jobs"]["plans"]["steps"] if "run" in step]
    assert yaml.safe_load((folder / ".gitlab-ci.yml").read_text())["plans"]["script"] == lines
    return lines


# -- init ---------------------------------------------------------------------------------------


def test_it_says_what_it_wrote_and_the_next_commands(started):
    root, said = started
    assert sorted(said["written"]) == sorted(files_in(root))
    assert sorted(said["written"]) == sorted([*FILES, SCHEMA, RECORDING])
    assert (said["kept"], said["first_run"], said["note"]) == ([], "success", None)
    assert said["next"][0] == "cd melt"
    assert said["next"][1:] == [
        f"fractale run {PLAN} -r {REGISTRY}",
        "python -m pytest",
        "fractale test recordings",
    ]


def test_the_new_project_runs_and_passes_its_own_checks(project):
    """The three commands that it says, and each line of its CI files but the installation."""
    run = fractale(project, "run", PLAN, "-r", REGISTRY, "--output", "mean")
    assert (run.returncode, run.stdout.strip()) == (0, "1.2"), run.stderr
    install, *lines = commands_of_ci(project)
    assert install.startswith("pip install 'fractale>=0.2'")
    for line in lines:
        words = [
            str(path.relative_to(project)) if "*" in word else word
            for word in shlex.split(line)
            for path in (sorted(project.glob(word)) if "*" in word else [project])
        ]
        if words[:3] == ["python", "-m", "pytest"]:
            ran = pytest_in(project)
            assert ran.returncode == 0, ran.stdout
            assert "3 passed" in ran.stdout
        else:
            ok(project, *words[1:])


def test_a_changed_plan_differs_from_the_recording(project):
    plan = project / PLAN
    plan.write_text(plan.read_text().replace("time 1.$number", "time 2.$number"))
    ran = fractale(project, "test", "recordings")
    assert ran.returncode == 1
    assert "diverged" in ran.stdout


def test_a_second_init_changes_nothing_and_runs_nothing(project):
    (project / REGISTRY).with_name("project_tools.py").write_text(HOSTILE)
    (project / ".gitignore").write_text("mine\n")
    before = files_in(project)
    said = json.loads(ok(project, "init", "--json"))
    assert files_in(project) == before
    assert said["written"] == []
    assert sorted(said["kept"]) == sorted(FILES)
    assert "nothing was run or imported" in said["note"]


def test_code_that_was_there_is_not_imported(tmp_path):
    """A module beside the registry could stand in for one of Python's own."""
    folder = tmp_path / "cloned"
    (folder / "registries").mkdir(parents=True)
    (folder / "registries" / "statistics.py").write_text(HOSTILE)
    said = json.loads(ok(folder, "init", "--json"))
    assert not (folder / "imported").exists()
    assert RECORDING not in said["written"]
    assert "nothing was run or imported" in said["note"]


def test_another_module_of_the_same_name_is_not_imported(tmp_path):
    (tmp_path / "project_tools.py").write_text(HOSTILE)
    said = json.loads(ok(tmp_path, "init", "below", "--json"))
    assert not (tmp_path / "imported").exists()
    assert "Python finds another module `project_tools`" in said["note"]


@pytest.mark.parametrize("link", ["plans", ".github", ".fractale"])
def test_it_does_not_write_through_a_link_to_another_directory(tmp_path, link):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / link).symlink_to(tmp_path / "elsewhere")
    ran = fractale(tmp_path / "here", "init")
    assert ran.returncode == 2
    assert "is a link to another directory" in ran.stderr
    assert not files_in(tmp_path / "elsewhere")


def test_a_directory_that_cannot_be_written_is_an_error_with_a_way_out(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "plans").write_text("")
    for words in (["init", "file/below"], ["init"]):
        ran = fractale(tmp_path, *words)
        assert ran.returncode == 2, ran.stdout
        assert "another directory" in ran.stderr


def test_the_settings_are_private_and_set_nothing_until_you_do(started):
    config = started[0] / ".fractale" / "config.yaml"
    assert stat.S_IMODE(config.stat().st_mode) == 0o600
    assert yaml.safe_load(config.read_text()) is None
    settings = load_settings(environment(started[0]), started[0])
    assert (settings.project is not None, settings.waiting) == (True, ())


@pytest.mark.parametrize("site", [CLUSTER, NOWHERE], ids=["cluster", "laptop"])
def test_each_setting_is_valid_without_its_comment_sign(tmp_path, site):
    text = filled("config.yaml", site)
    found, settings_of_it = text.split("# -- the model", 1)
    assert yaml.safe_load(found) is None
    is_setting = re.compile(r"^# (?=(?:  )*(?:- )?[a-z_]+:)", re.MULTILINE)
    set_lines = is_setting.sub("", "# -- the model" + settings_of_it)
    folder = tmp_path / "p" / ".fractale"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(set_lines)
    env = {**environment(tmp_path / "p"), "FRACTALE_WEBHOOK": "https://hooks.example/x"}
    settings = load_settings(env, folder.parent, trust_project=True)
    assert settings.model == "gemini:gemini-2.5-pro"
    assert settings.local_cores == (4 if site is CLUSTER else 2)
    assert {"site", "hpc"} <= settings.servers.keys()
    assert len(settings.notify) == 1
    found = {name: each.partition for name, each in settings.executors.items()}
    assert found == ({"cluster": "batch"} if site is CLUSTER else {})


def test_what_programs_of_the_site_print_is_part_of_a_comment():
    text = filled("config.yaml", CLUSTER)
    assert yaml.safe_load(text) is None
    assert "\x1b" not in text
    assert "slurm: 22.05" in text
    assert filled("first.yaml", CLUSTER).count("without this line, the job goes to slurm") == 1
    assert yaml.safe_load(filled("first.yaml", CLUSTER)) == yaml.safe_load(
        filled("first.yaml", NOWHERE)
    )


# -- new ----------------------------------------------------------------------------------------


def test_steps_tools_and_agents_are_added_and_work(project):
    ok(project, "new", "tool", "density")
    ok(project, "new", "agent", "critic", "--python")
    words = ("--tool", "density", "--after", "measure", "-r", REGISTRY)
    said = json.loads(ok(project, "new", "step", "dense", *words, "--json"))
    assert (said["changed"], said["warnings"]) == ([PLAN], [])
    ok(project, "new", "step", "note")
    ok(project, "new", "step", "judge", "--agent", "critic", "--instruction", "Judge: it.")
    ok(project, "new", "agent", "reviewer", "--instruction", "You review.\nBe brief.")
    ok(project, "validate", PLAN, "-r", REGISTRY)
    plan = yaml.safe_load((project / PLAN).read_text())
    assert [step["name"] for step in plan["steps"]] == [
        *("measure", "dense", "summarize", "note", "judge")
    ]
    assert plan["steps"][1]["inputs"] == {"text": "replace this"}
    assert plan["agents"][0]["instruction"] == "You review.\nBe brief.\n"
    assert ok(project, "agent", "-r", REGISTRY, "--direct", "critic", "two words") == "2\n"
    ran = pytest_in(project, "tests/test_density.py", "tests/test_critic.py")
    assert "2 passed" in ran.stdout, ran.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["step", "measure"], "already has a step `measure`"),
        (["step", "a b"], "not a valid name of a step"),
        (["step", "x", "--after", "mesure"], "did you mean `measure`?"),
        (["step", "x", "--job", "--script"], "a step has one kind"),
        (["step", "x", "--instruction", "Hi"], "--instruction needs --agent"),
        (["step", "x", "--tool", "summarise", "-r", REGISTRY], "no tool `summarise`"),
        (["step", "x", "--plan", "none.yaml"], "cannot be read"),
        (["step", "x", "--tool", "a b"], "a b"),
        (["tool", "json"], "name of an installed Python module"),
        (["tool", "pytest"], "name of an installed Python module"),
        (["tool", "../evil"], "not a valid name of a Python function"),
        (["tool", "class"], "not a valid name of a Python function"),
        (["tool", "summarize_times"], "already lists `summarize_times`"),
        (["tool", "project_tools"], "project_tools.py exists"),
        (["tool", "x", "--registry", PLAN], "belongs to a plan"),
        (["tool", "x", "--registry", "fractale:jobs"], "comes with fractale"),
        (["agent", "a/b"], "not a valid name of an agent"),
        (["agent", "x", "--registry", REGISTRY], "--registry is for a Python agent"),
        (["agent", "x", "--python", "--instruction", "Hi"], "for an agent in a plan"),
    ],
)
def test_what_cannot_be_added_is_an_error_and_changes_nothing(started, words, message):
    before = files_in(started[0])
    ran = fractale(started[0], "new", *words)
    assert ran.returncode in (2, 3), ran.stdout
    assert message in ran.stderr
    assert files_in(started[0]) == before


def test_a_plan_that_would_be_invalid_is_not_written(project):
    plan = project / PLAN
    plan.write_text(plan.read_text().replace("summarize.outputs.count", "sumarize.outputs.count"))
    before = files_in(project)
    ran = fractale(project, "new", "step", "x")
    assert ran.returncode == 3
    assert f"{PLAN}:" in ran.stderr
    assert ".part" not in ran.stderr
    assert files_in(project) == before
