"""`fractale why`: what changed since the last good run. The drifts here are between real runs."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from forked import run as forked_run
from fractale.cli import run_command as fractale
from fractale.record.conditions import read_conditions
from fractale.record.drift import AREAS, drift_between, drift_data, earlier_success
from fractale.record.history_reader import read_history
from fractale.store.run_record import RunRecord, RunRecords
from fractale.testing import FakeToolServer, ModelServer, Reply, ScriptedModel
from recording import Recording

PLAN = """\
name: heat
inputs: {n: {default: 3}, mesh: {default: mesh.dat}}
steps:
  - name: own
    tool: simulate
    inputs: {n: "{{ inputs.n }}", path: "{{ inputs.mesh }}", command: "solver --fast"}
    cache: {files: ["tables/*.csv"]}
  - name: never
    when: "false"
    job: {command: [solver], scheduler: local}
outputs: {x: "{{ steps.own.outputs.x }}"}
"""
TOOL = '''\
import helper

def simulate(n: int, path: str, command: str) -> dict:
    """Simulate."""
    return {"x": helper.scaled(n)}
'''


class Project:
    """A project with one good run; `changed` runs it again with something else."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.files = {
            "heat.yaml": PLAN,
            "tools.yaml": "tools:\n  - path: simulation.simulate\n",
            "simulation.py": TOOL,
            "helper.py": "def scaled(n):\n    return n * 2\n",
            "mesh.dat": "1 2 3\n",
            "tables/a.csv": "x,y\n1,2\n",
            "bin/solver": "#!/bin/sh\n",
            "bin/sbatch": "#!/bin/sh\n# 24.05\n",
            "packages/meshlib-1.4.0.dist-info/METADATA": "Name: meshlib\nVersion: 1.4.0\n",
        }
        for name in self.files:
            self.restore(name)
        self.environment = {
            "PATH": f"{root / 'bin'}:{os.environ['PATH']}",
            "HOME": str(root),
            "FRACTALE_STATE_DIR": str(root / "state"),
            "FRACTALE_TRUST_PROJECT": str(root),
            "PYTHONPATH": f"{root}:{root / 'packages'}",
            "LOADEDMODULES": "gcc/12.2:openmpi/4.1",
            "OMP_NUM_THREADS": "4",
            "MY_TUNING": "plain",
        }
        self.records = RunRecords(root / "state")
        self.good = self.run()

    def restore(self, name: str, text: str | None = None) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.files[name] if text is None else text)
        path.chmod(0o755 if name.startswith("bin") else 0o644)

    def run(self, *words: str, **environment: str) -> RunRecord:
        before = self.records.names()
        done = forked_run(
            ["run", "heat.yaml", "-r", "tools.yaml", "--no-cache", *words],
            cwd=self.root,
            env={**self.environment, **environment},
        )
        assert done.returncode == 0, done.stdout + done.stderr
        (made,) = self.records.names() - before
        return self.records.at(made)

    @contextmanager
    def with_text(self, name: str, text: str) -> Iterator[None]:
        self.restore(name, text)
        try:
            yield
        finally:
            self.restore(name)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return Project(tmp_path_factory.mktemp("project"))


def found(now: RunRecord, before: RunRecord) -> dict[str, list[str]]:
    """Area → what differs there, as text."""
    drift = drift_between(read_history(now), read_history(before))
    return {
        area.name: [f"{d.what} {d.how} {d.before} {d.now}" for d in area.differences]
        for area in drift.differing
    }


def unknown(now: RunRecord, before: RunRecord) -> list[str]:
    drift = drift_between(read_history(now), read_history(before))
    return [words for area in drift.areas for words in area.unknown]


def changed_file(name: str, text: str) -> Callable[[Project], RunRecord]:
    def run(project: Project) -> RunRecord:
        with project.with_text(name, text):
            return project.run()

    return run


def other_package(project: Project) -> RunRecord:
    old, new = (project.root / "packages" / f"meshlib-{v}.dist-info" for v in ("1.4.0", "1.5.0"))
    old.rename(new)
    try:
        return project.run()
    finally:
        new.rename(old)


def in_record(change: Callable[[dict[str, Any]], None]) -> Callable[[Project], RunRecord]:
    """A run whose record says something else, as that of another machine does."""

    def run(project: Project) -> RunRecord:
        record = project.run()
        conditions = read_conditions(record)
        change(conditions)
        record.conditions.unlink()  # the runs with the same conditions share the file
        record.conditions.write_text(json.dumps(conditions))
        return record

    return run


DRIFTS: dict[str, tuple[Callable[[Project], RunRecord], str, str]] = {
    "plan": (
        changed_file("heat.yaml", PLAN.replace("--fast", "--exact")),
        "plan",
        "steps.own.inputs.command",
    ),
    "input": (lambda p: p.run("-i", "n=4"), "inputs", "`n`  3 4"),
    "default": (
        changed_file("heat.yaml", PLAN.replace("default: 3", "default: 5")),
        "plan",
        "`inputs.n`  3 5",
    ),
    "own tool": (changed_file("simulation.py", TOOL + "# new\n"), "own code", "simulation.py"),
    "helper": (
        changed_file("helper.py", "def scaled(n):\n    return n * 3\n"),
        "own code",
        "helper.py",
    ),
    "file": (changed_file("mesh.dat", "1 2 4\n"), "files", "mesh.dat"),
    "cache.files": (changed_file("tables/a.csv", "x,y\n1,3\n"), "files", "a.csv"),
    "package": (other_package, "packages", "`meshlib`  1.4.0 1.5.0"),
    "Python": (
        in_record(lambda c: c["python"].update(version="3.12.1")),
        "packages",
        "Python",
    ),
    "variable": (lambda p: p.run(OMP_NUM_THREADS="8"), "environment", "`OMP_NUM_THREADS`  4 8"),
    "unknown variable": (lambda p: p.run(MY_TUNING="wild"), "environment", "`MY_TUNING`"),
    "module": (
        lambda p: p.run(LOADEDMODULES="gcc/13.1:openmpi/4.1"),
        "modules",
        "gcc/12.2 gcc/13.1",
    ),
    "program": (changed_file("bin/solver", "#!/bin/sh\ntrue\n"), "programs", "`solver`"),
    "registry": (
        changed_file("tools.yaml", "# Two tools, soon.\ntools:\n  - path: simulation.simulate\n"),
        "registries",
        "tools.yaml",
    ),
    "scheduler": (changed_file("bin/sbatch", "#!/bin/sh\n# 25.05\n"), "site", "sbatch"),
    "host": (in_record(lambda c: c["site"].update(host="login2")), "site", "login2"),
    "limit": (lambda p: p.run("--limit", "steps=50"), "settings", "steps"),
}
IMPLIED = {"default": {"inputs"}, "plan": {"inputs"}, "variable": set(), "host": set()}
"""Further areas in which a drift shows: a changed default is another input, too."""


@pytest.mark.parametrize("name", DRIFTS)
def test_a_drift_between_two_processes_is_named(project, name):
    run, area, words = DRIFTS[name]
    differing = found(run(project), project.good)
    assert words in differing.get(area, [""])[0], differing
    assert set(differing) - {area} <= IMPLIED.get(name, set())


def test_between_two_equal_runs_nothing_differs_and_everything_is_known(project):
    for _ in range(3):
        again = project.run()
        assert found(again, project.good) == {}
        assert unknown(again, project.good) == []


# In this process: servers, models, agents, settings

STEP = "name: p\nsteps:\n  - {name: a, tool: t, inputs: {n: 1}}"
ASKS = """
name: p
agents: [{name: expert, description: Knows., instruction: Be brief., tools: []}]
steps:
  - {name: a, agent: expert, inputs: {question: What is it?}}
  - {name: b, prompt: greet, allow_tools: false}
"""


def server(*, text: str = "Greet.", version: str = "1") -> FakeToolServer:
    tools = FakeToolServer()
    tools.version = version

    @tools.tool(name="t")
    def tool(n: int) -> dict[str, Any]:
        """A tool."""
        return {"n": n}

    return tools.prompt("greet", text)


def described(text: str) -> FakeToolServer:
    tools = FakeToolServer()

    def tool(n: int) -> dict[str, Any]:
        return {"n": n}

    tool.__doc__ = text
    tools.tool(name="t")(tool)
    return tools.prompt("greet", "Greet.")


def wider() -> FakeToolServer:
    tools = FakeToolServer()

    @tools.tool(name="t")
    def tool(n: int, more: int = 0) -> dict[str, Any]:
        """A tool."""
        return {"n": n}

    return tools.prompt("greet", "Greet.")


class Warm(ScriptedModel):
    """A model of the caller's own with a temperature."""

    temperature: float = 0.1

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {"temperature": self.temperature}


def model(temperature: float = 0.1) -> Warm:
    return Warm(lambda _: "So.", temperature=temperature)


TOOL_DRIFTS: dict[str, tuple[dict[str, Any], str, str]] = {
    "description": ({"tools": lambda: described("Another tool.")}, "tool definitions", "descript"),
    "schema": ({"tools": wider}, "tool definitions", "input schema"),
    "server": ({"tools": lambda: server(version="2")}, "servers", "server of `fake`  1 2"),
    "prompt": ({"tools": lambda: server(text="Salute!")}, "prompts", "prompt `greet`"),
    "agent": ({"plan": ASKS.replace("Be brief", "Be long")}, "prompts", "Be brief. Be long."),
    "temperature": ({"model": lambda: model(0.9)}, "model", "0.1"),
    "policy": ({"policy": ("t",)}, "settings", "policy.ask"),
}


@pytest.mark.parametrize("name", TOOL_DRIFTS)
async def test_a_drift_of_servers_agents_and_settings_is_named(run_plan, settings, name):
    given, area, words = TOOL_DRIFTS[name]
    plan = STEP if name in ("description", "schema", "server", "policy") else ASKS
    base = {"tools": server, "model": model}
    records = RunRecords(settings.state_dir)

    async def run(**changed: Any) -> RunRecord:
        parts = {**base, **changed}
        policy = replace(settings.policy, ask=parts.pop("policy", ()))
        text = parts.pop("plan", plan)
        made = {key: make() for key, make in parts.items()}
        done = await run_plan(text, keep=True, settings=replace(settings, policy=policy), **made)
        assert done.status == "success", done.result
        return records.at(done.result.run)

    first, second, drifted = await run(), await run(), await run(**given)
    assert found(second, first) == {}
    differing = found(drifted, first)
    assert any(words in each for each in differing.get(area, [])), differing
    allowed = {"agent": {"plan"}, "server": {"own code"}}.get(name, set())
    assert set(differing) - {area} <= allowed


@pytest.mark.parametrize(
    ("spec", "snapshot", "words"),
    [("openai:b", "", "openai:b"), ("openai:a", "a-2026-11", "version of `openai:a`  a-2026-05")],
)
async def test_another_model_and_another_version_of_it_are_named(
    run_plan, settings, spec, snapshot, words
):
    plan = "name: p\nsteps:\n  - {name: a, agent: ask, instruction: Say it., allow_tools: false}"
    replies = [Reply(text="So.", snapshot=s) for s in ("a-2026-05", "a-2026-05", snapshot)]
    runs: list[RunRecord] = []
    with ModelServer(replies) as models:
        for name in ("openai:a", "openai:a", spec):
            now = replace(
                settings, model=name, openai_api_key="x", openai_base_url=models.openai_url
            )
            done = await run_plan(plan, settings=now, tools=FakeToolServer(), keep=True)
            assert done.status == "success"
            runs.append(RunRecords(settings.state_dir).at(done.result.run))
    assert found(runs[1], runs[0]) == {}
    differing = found(runs[2], runs[0])
    assert any(words in each for each in differing["model"])
    assert set(differing) == {"model"}


async def test_another_secret_is_named_and_neither_is_recorded(run_plan, settings):
    plan = """
    name: p
    inputs: {token: {secret: true}}
    steps: [{name: a, tool: t, inputs: {n: 1}}]
    """
    runs = []
    for secret in ("hunter2-first", "hunter2-first", "hunter2-other"):
        done = await run_plan(plan, secrets={"token": secret}, tools=server(), keep=True)
        runs.append(RunRecords(settings.state_dir).at(done.result.run))
    assert found(runs[1], runs[0]) == {}
    assert found(runs[2], runs[0])["inputs"] == ["secret `token` another value None None"]
    kept = [p.read_bytes() for p in settings.state_dir.rglob("*") if p.is_file()]
    assert not any(b"hunter2" in data for data in kept)


# What isn't known, and which run is compared


def test_a_record_without_conditions_is_unknown_not_equal(tmp_path):
    runs = [Recording(tmp_path, name).start("a").visit("a").end() for name in ("aaaaa", "bbbbb")]
    drift = drift_between(*(read_history(run.folder) for run in runs))
    states = {area["area"]: area["state"] for area in drift_data(drift)["areas"]}
    assert list(states) == list(AREAS)
    assert states["plan"] == states["inputs"] == "same"
    assert states["own code"] == states["packages"] == states["environment"] == "unknown"


def test_checksums_of_another_key_are_not_compared(project):
    with project.with_text("mesh.dat", "7 8 9\n"):
        again = in_record(lambda c: c.update(key="another"))(project)
    assert found(again, project.good) == {}
    words = " ".join(unknown(again, project.good))
    assert "different keys" in words
    assert "mesh.dat" in words


def test_the_latest_success_of_the_same_file_is_compared(tmp_path):
    other = {"file": "/elsewhere/translate.yaml"}
    for number, (name, status, head) in enumerate(
        (
            ("good1", "success", {}),
            ("good2", "success", {}),
            ("moved", "success", other),
            ("wrong", "failed", {}),
            ("later", "success", {}),
        )
    ):
        run = Recording(tmp_path, name, **{**head, "started": 1_795_392_000.0 + number})
        run.start("a").visit("a").end(status)
    records = RunRecords(tmp_path)
    assert earlier_success(read_history(records.at("wrong"))).run_id == "good2"
    assert earlier_success(read_history(records.at("moved"))).run_id == "good2"
    assert earlier_success(read_history(records.at("good1"))) is None


def test_the_command_prints_what_differs_and_says_plainly_if_nothing_does(project, capsys):
    same = project.run()
    with project.with_text("mesh.dat", "9\n"):
        other = project.run("-i", "n=4")
    os.environ["FRACTALE_STATE_DIR"] = str(project.root / "state")
    try:
        assert fractale(["why", same.run_id, "--since", project.good.run_id]) == 0
        assert "nothing of these differs" in capsys.readouterr().out
        assert fractale(["why", other.run_id]) == 0
        text = capsys.readouterr().out
        assert text.index("inputs") < text.index("mesh.dat") < text.index("no difference")
        assert fractale(["why", other.run_id, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["differs"] == ["inputs", "files"]
        assert fractale(["why", project.good.run_id]) == 2
        assert "--since RUN" in capsys.readouterr().err
    finally:
        del os.environ["FRACTALE_STATE_DIR"]


async def test_a_failure_after_a_success_leads_to_why(run_plan, settings):
    failing = STEP.replace("inputs: {n: 1}", 'inputs: {n: 1}, rules: {failure: "true"}')
    good = await run_plan(STEP, tools=server(), keep=True)
    assert good.status == "success"
    bad = await run_plan(failing, tools=server(), keep=True)
    assert bad.status == "failed"
    (end,) = bad.of("run_finished")
    assert end["next"][-1] == f"fractale why {bad.result.run}"
    shutil.rmtree(settings.state_dir / "runs" / good.result.run)
    again = await run_plan(failing, tools=server(), keep=True)
    assert not any("why" in each for each in again.of("run_finished")[0]["next"])
