"""`fractale export`: a run as a graph, as transitions, and as a Workflow Run RO-Crate."""

from __future__ import annotations

import importlib.util
import json
import stat
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from fractale.cli import run_command as fractale
from fractale.errors import UsageError
from fractale.plan.build import load_plan
from fractale.record.crate import write_crate
from fractale.record.export import graph_data, graph_of, graphml, mermaid, transitions
from fractale.record.history_reader import read_history
from fractale.record.plans import keep_plan
from fractale.store.run_record import RunRecords
from fractale.testing import FakeToolServer, ScriptedModel
from recording import Recording, translation
from snapshot import assert_same

PLAN = """
name: translate
description: Translate a script
inputs: {script: {type: string, default: job.sbatch}}
steps:
  - {name: transform, prompt: expert}
  - name: validate
    tool: validate
    transitions: {success: submit, failure: transform, odd: report}
    rules: {odd: ["odd"]}
  - {name: submit, tool: submit}
  - {name: report, tool: report}
outputs: {job: "{{ steps.submit.outputs.job }}"}
"""
NAMESPACE = "{http://graphml.graphdrawing.org/xmlns}"


@pytest.fixture
def recorded(tmp_path):
    """A recorded run with its plan beside it."""
    (tmp_path / "plan.yaml").write_text(PLAN)
    run = translation(tmp_path / "state", file=str(tmp_path / "plan.yaml"))
    keep_plan(run.folder, load_plan(tmp_path / "plan.yaml"))
    return run


@pytest.fixture
async def real(run_plan, settings, tmp_path):
    """A real run with everything inside: items, a block, an included plan, a model, a loop."""
    (tmp_path / "inner.yaml").write_text("name: i\nsteps: [{name: say, tool: say}]\n")
    plan = tmp_path / "plan.yaml"
    plan.write_text(
        "name: all of it\n"
        "inputs: {n: 2, who: Ada, deep: {a: [1, 2.5, true, null]}}\n"
        "steps:\n"
        "  - {name: each, tool: say, foreach: [1, 2], inputs: {n: '{{ item }}'}}\n"
        "  - {name: outer, plan: ./inner.yaml}\n"
        "  - name: both\n    parallel: [{name: l, tool: say}, {name: r, tool: say}]\n"
        "  - {name: think, type: agent, instruction: think}\n"
        "  - {name: check, tool: check, transitions: {failure: check}}\n"
        "  - {name: never, tool: say, when: 'false'}\n"
        "outputs: {text: '{{ steps.think.outputs.content }}', all: '{{ steps.each.outputs }}'}\n"
    )
    tools = FakeToolServer().answer("say", {"x": 1})
    tools.answer("check", {"returncode": 1}, {"returncode": 0})
    seen = await run_plan(plan, tools=tools, model=ScriptedModel(["42"]), keep=True)
    assert seen.status == "success"
    return read_history(RunRecords(settings.state_dir).find("-1"))


# -- the graph ----------------------------------------------------------------------------------


def edges(graph) -> dict[str, int]:
    return {f"{e.source} {e.event} {e.target}": e.taken for e in graph.edges.values()}


def test_the_graph_is_the_plans_with_how_often_each_part_was_taken(recorded):
    graph = graph_of(read_history(recorded.folder))
    assert graph.complete
    assert edges(graph) == {
        "start start transform": 1,
        "transform success validate": 2,
        "validate success submit": 1,
        "validate failure transform": 1,
        "validate odd report": 0,
        "submit success report": 0,
        "report success success": 0,
        "submit success success": 1,
    }
    validate = graph.nodes["validate"]
    assert (validate.visits, validate.succeeded, validate.failed) == (2, 1, 1)
    assert graph.nodes["report"].visits == 0


def test_without_the_plan_the_graph_is_what_was_taken(tmp_path):
    graph = graph_of(read_history(translation(tmp_path).folder))
    assert not graph.complete
    assert all(edges(graph).values())
    assert "report" not in graph.nodes


async def test_a_real_run_has_its_insides_in_the_graph(real):
    graph = graph_of(real)
    parents = {node.id: node.parent for node in graph.nodes.values()}
    assert parents["outer/say"] == "outer"
    assert parents["outer/success"] == "outer"
    assert parents["both/l"] == parents["both/r"] == "both"
    taken = edges(graph)
    assert taken["check failure check"] == 1
    assert taken["outer/say success outer/success"] == 1
    assert graph.nodes["never"].skipped == 1
    assert not [name for name in taken if name.startswith("both/")], "they lead nowhere"


def test_a_draft_is_drawn_where_it_was_made(tmp_path):
    run = Recording(tmp_path).start("made").enter("made", type="plan")
    run.folder.keep_draft("made", "name: d\nsteps: [{name: go, tool: t}]\n")
    run.folder.keep_draft("bad", "name: [")
    run.visit("made/go").leave("made")
    node = graph_of(read_history(run.folder)).nodes["made/go"]
    assert (node.drafted, node.visits, node.target) == (True, 1, "t")


def test_mermaid_is_as_it_was(recorded):
    assert_same("export_mermaid", mermaid(graph_of(read_history(recorded.folder))))


async def test_mermaid_draws_insides_as_subgraphs(real):
    drawn = mermaid(graph_of(real))
    assert drawn.count("subgraph") == drawn.count("    end\n") == 2


HOSTILE = '"]; click n1 href "javascript:1" <script>\x1b[2J</data>&\x00'


def test_names_never_become_syntax(tmp_path):
    run = Recording(tmp_path, plan=HOSTILE).start("a").enter("a", target=HOSTILE)
    run.leave("a", event_name=HOSTILE, next="b").visit("b").end()
    graph = graph_of(read_history(run.folder))
    drawn = mermaid(graph)
    assert "\x1b" not in drawn
    assert "<script" not in drawn.partition("flowchart")[2]
    assert "href #34;" in drawn
    ElementTree.fromstring(graphml(graph))


async def test_graphml_is_read_by_an_xml_parser(real):
    graph = graph_of(real)
    root = ElementTree.fromstring(graphml(graph))
    names = {key.get("id"): key.get("attr.name") for key in root.iter(f"{NAMESPACE}key")}
    nodes = {
        node.get("id"): {names[d.get("key")]: d.text for d in node}
        for node in root.iter(f"{NAMESPACE}node")
    }
    assert {node["id"] for node in nodes.values()} == set(graph.nodes)
    [check] = [node for node in nodes.values() if node["id"] == "check"]
    assert (check["visits"], check["failed"], check["drafted"]) == ("2", "1", "false")
    for edge in root.iter(f"{NAMESPACE}edge"):
        assert {edge.get("source"), edge.get("target")} <= set(nodes)


def test_json_is_in_the_node_link_form(recorded):
    data = json.loads(json.dumps(graph_data(graph_of(read_history(recorded.folder)))))
    ids = {node["id"] for node in data["nodes"]}
    assert data["directed"]
    assert data["multigraph"]
    assert all({edge["source"], edge["target"]} <= ids for edge in data["edges"])


# -- transitions --------------------------------------------------------------------------------


def test_transitions_come_in_their_order_with_all_that_is_known(recorded):
    found = list(transitions(read_history(recorded.folder)))
    assert [(each["from"], each["event"], each["to"]) for each in found] == [
        ("transform", "success", "validate"),
        ("validate", "failure", "transform"),
        ("transform", "success", "validate"),
        ("validate", "success", "submit"),
        ("submit", "success", "success"),
    ]
    assert [each["number"] for each in found] == [1, 2, 3, 4, 5]
    assert found[0]["models"] == ["openai:gpt-5"]
    assert found[0]["inputs"]["script"].startswith("#!/bin/bash")
    assert found[1]["decided_by"] == "exit_code"
    assert found[1]["calls"][0]["arguments"] == {"jobspec": "#FLUX: -N2"}
    assert found[2]["came_from"] == "validate"


async def test_transitions_of_inner_steps_have_their_paths(real):
    found = {each["from"]: each for each in transitions(real)}
    assert found["outer/say"]["to"] == "outer/success"
    assert found["both/l"]["to"] is None
    assert found["never"]["outcome"] == "skipped"
    assert len(found["each"]["items"]) == 2


def test_a_visit_without_an_end_is_no_transition(tmp_path):
    run = Recording(tmp_path).start("a").visit("a", next="b").enter("b")
    assert [each["from"] for each in transitions(read_history(run.folder))] == ["a"]


# -- the crate ----------------------------------------------------------------------------------


def crate_of(history, folder: Path, **options) -> dict[str, dict]:
    """Writes a crate; its entities by their ids."""
    text = write_crate(history, folder, **options).read_text()
    graph = json.loads(text)["@graph"]
    found = {entity["@id"]: entity for entity in graph}
    assert len(found) == len(graph), "an id stands for one entity"
    return found


def refs(value) -> list[str]:
    """The ids that a property refers to."""
    values = value if isinstance(value, list) else [value]
    return [each["@id"] for each in values if isinstance(each, dict)]


def of_type(entities, kind: str) -> list[dict]:
    return [e for e in entities.values() if kind in [e["@type"], *list(e["@type"])]]


async def test_the_crate_meets_what_its_profiles_require(real, tmp_path):
    entities = crate_of(real, tmp_path / "crate", license_name="CC-BY-4.0")
    root, plan = entities["./"], entities["plan.yaml"]
    profiles = refs(root["conformsTo"])
    for profile in ("process", "workflow", "provenance"):
        assert f"https://w3id.org/ro/wfrun/{profile}/0.5" in profiles
    assert all(entities[profile]["@type"] == "CreativeWork" for profile in profiles)
    assert {"name", "description", "datePublished", "license", "mentions"} <= set(root)
    assert refs(root["license"]) == ["https://spdx.org/licenses/CC-BY-4.0"]
    assert refs(root["mainEntity"]) == ["plan.yaml"]
    types = {"File", "SoftwareSourceCode", "ComputationalWorkflow", "HowTo"}
    assert types == set(plan["@type"])
    assert entities[refs(plan["programmingLanguage"])[0]]["@type"] == "ComputerLanguage"
    actions, tools = of_type(entities, "CreateAction"), refs(plan["hasPart"])
    instruments = {ref for action in actions for ref in refs(action["instrument"])}
    assert instruments == {"plan.yaml", *tools}
    for step in of_type(entities, "HowToStep"):
        assert step["@id"] in refs(plan["step"])
        assert set(refs(step["workExample"])) <= set(tools)
        assert step["position"].isdigit()
    controls = of_type(entities, "ControlAction")
    for control in controls:
        assert entities[refs(control["instrument"])[0]]["@type"] == "HowToStep"
        assert entities[refs(control["object"])[0]]["@type"] == "CreateAction"
    [organize] = of_type(entities, "OrganizeAction")
    assert set(refs(organize["object"])) == {control["@id"] for control in controls}
    assert refs(organize["result"]) == ["#run"]
    assert entities[refs(organize["instrument"])[0]]["name"] == "fractale"
    for parameter in of_type(entities, "FormalParameter"):
        assert parameter["additionalType"]
        assert entities[refs(parameter["workExample"])[0]]["@type"] == "PropertyValue"
    assert {"startTime", "endTime", "agent", "actionStatus", "object", "result"} <= set(
        entities["#run"]
    )


async def test_everything_that_the_crate_refers_to_is_in_it(real, tmp_path):
    entities = crate_of(real, tmp_path / "crate")
    for entity in entities.values():
        for name, value in entity.items():
            for ref in refs(value) if name not in ("conformsTo", "about") else ():
                assert ref in entities, (entity["@id"], name)
    for entity in of_type(entities, "File"):
        assert (tmp_path / "crate" / entity["@id"]).is_file()


async def test_values_in_the_crate_are_those_of_the_run(real, tmp_path):
    entities = crate_of(real, tmp_path / "crate")
    assert entities["#input-who-value"]["value"] == "Ada"
    assert entities["#input-n"]["additionalType"] == "Integer"
    assert json.loads(entities["#input-deep-value"]["value"]) == {"a": [1, 2.5, True, None]}
    result = refs(entities["#action-check_232"]["result"])
    assert json.loads((tmp_path / "crate" / result[0]).read_text()) == {"returncode": 0}
    failed = entities["#action-check_231"]
    assert failed["actionStatus"] == "http://schema.org/FailedActionStatus"
    assert "returncode" in failed["error"]


def test_a_run_that_waits_is_neither_done_nor_failed(tmp_path, recorded):
    run = Recording(tmp_path / "state", "other", file=str(tmp_path / "plan.yaml"))
    keep_plan(run.folder, load_plan(tmp_path / "plan.yaml"))
    run.start("transform").visit("transform").end("waiting")
    entities = crate_of(read_history(run.folder), tmp_path / "crate")
    assert "actionStatus" not in entities["#run"]
    assert isinstance(entities["./"]["license"], str)


def test_drafts_and_included_plans_are_in_the_crate(tmp_path):
    (tmp_path / "inner.yaml").write_text("name: i\nsteps: [{name: say, tool: say}]\n")
    plan = tmp_path / "plan.yaml"
    plan.write_text("name: p\nsteps: [{name: outer, plan: ./inner.yaml}]\n")
    run = Recording(tmp_path / "state", file=str(plan)).start("outer").visit("outer").end()
    keep_plan(run.folder, load_plan(plan))
    run.folder.keep_draft("outer/made", "steps: []\n")
    entities = crate_of(read_history(run.folder), tmp_path / "crate")
    assert {"plan/outer.yaml", "drafts/outer/made.yaml"} <= set(entities)


def test_a_crate_is_refused_where_it_would_not_be_true(tmp_path, recorded):
    history = read_history(recorded.folder)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(UsageError, match="not empty"):
        write_crate(history, tmp_path / "full")
    (recorded.folder.path / "plan.yaml").unlink()
    with pytest.raises(UsageError, match="has changed"):
        write_crate(history, tmp_path / "crate")
    run = Recording(tmp_path / "state", "other").start("a")
    keep_plan(run.folder, load_plan(tmp_path / "plan.yaml"))
    with pytest.raises(UsageError, match="has no finished step"):
        write_crate(read_history(run.folder), tmp_path / "crate")
    assert not (tmp_path / "crate").exists()


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path, recorded):
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="cannot write"):
        write_crate(read_history(recorded.folder), tmp_path / "file" / "crate")


def validator() -> str | None:
    """The Python that has `roc-validator`: this one, or one of an environment of its own."""
    own = Path(f"{sys.prefix}-crate", "bin", "python")  # beside the environment: see the Makefile
    if own.is_file():
        return str(own)
    return sys.executable if importlib.util.find_spec("rocrate_validator") else None


@pytest.mark.skipif(validator() is None, reason="roc-validator is not installed: see the Makefile")
async def test_the_crate_is_valid(real, tmp_path):
    write_crate(real, tmp_path / "crate", license_name="CC-BY-4.0")
    assert faults_of(tmp_path / "crate") == []


def faults_of(crate: Path) -> list[str]:
    """What the validator finds in a crate that breaks a MUST."""
    import rocrate

    script = Path(__file__).parents[1] / "support" / "check_crate.py"
    context = Path(rocrate.__file__).parent / "data" / "ro-crate.jsonld"
    done = subprocess.run(
        [str(validator()), script, crate, context], capture_output=True, text=True, check=False
    )
    *faults, end = done.stdout.splitlines() or [""]
    assert end == "checked", done.stderr
    return faults


@pytest.mark.skipif(validator() is None, reason="roc-validator is not installed: see the Makefile")
async def test_a_crate_that_lacks_something_is_not_valid(real, tmp_path):
    file = write_crate(real, tmp_path / "crate")
    data = json.loads(file.read_text())
    for entity in data["@graph"]:
        entity.pop("programmingLanguage", None)
        entity.pop("workExample", None)
    file.write_text(json.dumps(data))
    assert len(faults_of(tmp_path / "crate")) > 1, "else the validator would check nothing"


# -- the command ----------------------------------------------------------------------------------


@pytest.fixture
def state(recorded, tmp_path, monkeypatch):
    monkeypatch.setenv("FRACTALE_STATE_DIR", str(tmp_path / "state"))
    return tmp_path


@pytest.mark.parametrize("form", ["mermaid", "graphml", "json"])
def test_the_graph_is_printed(state, capsys, form):
    assert fractale(["export", "-1", "--graph", form]) == 0
    assert capsys.readouterr().out.startswith({"mermaid": "---", "graphml": "<?xml"}.get(form, "{"))


def test_a_graph_without_its_plan_says_so(state, capsys, recorded):
    (recorded.folder.path / "plan.yaml").unlink()
    assert fractale(["export", "-1", "--graph", "json"]) == 0
    assert "has changed or was removed" in capsys.readouterr().err


def test_transitions_are_written_for_the_owner_only_or_printed(state, capsys):
    file = state / "run.jsonl"
    assert fractale(["export", "-1", "--transitions", str(file)]) == 0
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    capsys.readouterr()
    assert fractale(["export", "-1", "--transitions", "-"]) == 0
    assert capsys.readouterr().out == file.read_text()
    assert len(file.read_text().splitlines()) == 5


def test_a_crate_is_written(state, capsys):
    assert fractale(["export", "-1", "--crate", str(state / "crate")]) == 0
    assert (state / "crate" / "ro-crate-metadata.json").is_file()
    assert "wrote" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "choose what to write"),
        (["--transitions", "/nowhere/at/all.jsonl"], "cannot write"),
    ],
)
def test_wrong_use_is_an_error(state, capsys, words, says):
    assert fractale(["export", "-1", *words]) == 2
    assert says in capsys.readouterr().err


def test_without_the_extra_the_command_says_what_to_install(state):
    code = (
        "import sys; sys.modules['rocrate'] = None\n"
        "from fractale.cli import run_command\n"
        f"sys.exit(run_command(['export', '-1', '--crate', {str(state / 'crate')!r}]))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "pip install 'fractale[crate]'" in done.stderr
