"""Sub-agents that people write: by dotted path, in a plan, in a registry, from a package."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import forked
from fractale.agents.catalog import BUILT_IN, SUMMARIES, Catalog
from fractale.agents.own import split_agents, with_named
from fractale.agents.subagent import AgentAnswer, Subagent
from fractale.errors import PlanError
from fractale.plan.build import parse_plan
from fractale.registry import load_registry, local_entries

MODULE = '''
from fractale.agents.subagent import AgentAnswer, Subagent

async def count(host, request):
    """Count words, with a tool of the run where there is one."""
    tools = await host.tools()
    words = request.inputs.get("text", request.instruction).split()
    host.remember("words", len(words))
    return AgentAnswer(outputs={"words": len(words), "tools": [tool.name for tool in tools]})

async def fail(host, request):
    return AgentAnswer(outputs={}, error="there is nothing to count")

TEXT = {"type": "object", "properties": {"text": {"type": "string"}}}
COUNT = Subagent(name="count", description="Counts words.", input_schema=TEXT, run=count)
FAIL = Subagent(name="fail", description="Fails.", run=fail)
SECOND = Subagent(name="count", description="Counts, too.", run=count)
ASK = Subagent(name="ask", description="Not fractale's.", run=count)

class Old:
    """A sub-agent of the older kind."""
    name = "old"
    description = "Echoes."
    input_schema = {**TEXT, "annotations": {"fractale.type": "agent"}}
    async def __call__(self, text=""):
        return {"echo": text}

def greet(who: str) -> dict:
    """Say hello."""
    return {"text": f"hello {who}"}
'''
PLAN = """
name: p
agents: []
steps: [{{name: s, agent: {name}, inputs: {{text: a b c}}}}]
outputs: {{all: "{{{{ steps.s.outputs }}}}"}}
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with a module of sub-agents, as a person would have it."""
    (tmp_path / "my_agents.py").write_text(MODULE)
    return tmp_path


def install(project: Path, points: str, module: str = MODULE) -> None:
    """A package as an installer leaves it: its module, and what its metadata offers."""
    (project / "counting.py").write_text(module)
    info = project / "hpc_counting-1.0.dist-info"
    info.mkdir(exist_ok=True)
    (info / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: hpc-counting\nVersion: 1.0\nSummary: Counts what there is.\n"
    )
    (info / "entry_points.txt").write_text(f"[fractale.agents]\n{points}\n")


def fractale(project: Path, *words: str) -> subprocess.CompletedProcess[str]:
    kept = {k: v for k, v in os.environ.items() if k == "PATH" or k.startswith("COVERAGE_")}
    return forked.run(
        words,
        cwd=project,
        env={**kept, "HOME": str(project), "PYTHONPATH": str(project)},
        timeout=60,
    )


def ran(project: Path, plan: str, *words: str) -> dict:
    """The last event of a run of the plan."""
    (project / "plan.yaml").write_text(plan)
    done = fractale(project, "run", "plan.yaml", "--json", *words)
    assert done.stdout, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


COUNTED = {"words": 3, "tools": []}


def test_one_of_the_command_line_works_in_the_run(project):
    end = ran(project, PLAN.format(name="count"), "-a", "my_agents.COUNT")
    assert end["status"] == "success", end
    assert end["outputs"] == {"all": COUNTED}


COUNTER = PLAN.format(name="counter").replace(
    "agents: []", "agents: [{path: my_agents.COUNT, name: counter}]"
)


def test_one_of_the_plan_works_under_the_name_that_the_plan_gives(project):
    (project / "r.yaml").write_text("tools: [my_agents.COUNT]\n")
    assert ran(project, COUNTER, "-r", "r.yaml")["outputs"] == {"all": COUNTED}
    assert ran(project, COUNTER, "-a", "my_agents.COUNT")["outputs"] == {"all": COUNTED}
    install(project, "tally = my_agents:COUNT")
    assert ran(project, COUNTER)["outputs"] == {"all": COUNTED}


def test_one_of_the_older_kind_has_the_name_of_the_plan_too(project):
    plan = PLAN.format(name="echo").replace(
        "agents: []", "agents: [{path: my_agents.Old, name: echo}]"
    )
    end = ran(project, plan, "-a", "my_agents.Old")
    assert end["outputs"] == {"all": {"echo": "a b c"}}, end


def test_fractales_own_and_those_of_0_1_0_are_registered():
    text = """
name: p
agents:
  - fractale.agents.ask.ASK
  - {path: fractale_agents.parsers.ResultParserAgent, name: parse}
steps: [{name: s, agent: parse}]
"""
    agents, rest = split_agents(with_named([], (), parse_plan(text)))
    assert [agent.name for agent in agents] == ["ask", "parse"]
    assert rest == []


MARKS = 'open("imported.txt", "a").write(__name__ + "\\n")\nclass A: pass\n'


@pytest.mark.parametrize("path", ["antigravity.x", "this.s", "unittest.__main__.x", "marks.A"])
@pytest.mark.parametrize("more", [(), ("-r", "r.yaml")])
def test_a_plan_imports_no_module_that_is_not_registered(project, path, more):
    (project / "marks.py").write_text(MARKS)
    (project / "r.yaml").write_text("tools: [my_agents.greet]\n")
    text = PLAN.format(name="count").replace("agents: []", f"agents: [{path}]")
    (project / "plan.yaml").write_text(text)
    for words in (("run", "plan.yaml", *more), ("doctor", "plan.yaml", *more)):
        done = fractale(project, *words)
        told = " ".join((done.stdout + done.stderr).split())
        assert done.returncode in (1, 3), told
        assert f"`{path}` is not registered as a sub-agent" in told
        assert f"-a {path}" in told
        assert "Zen of Python" not in told
        assert "Traceback" not in told
    assert fractale(project, "graph", "plan.yaml").returncode == 0
    for words in (("validate", "plan.yaml", *more), ("run", "plan.yaml", "--dry-run", *more)):
        assert fractale(project, *words).returncode == (3 if more else 0)
    assert not (project / "imported.txt").exists()


def test_one_of_a_registry_works_beside_its_tools(project):
    paths = ("my_agents.greet", "my_agents.COUNT", "my_agents.Old")
    (project / "r.yaml").write_text("tools:\n" + "".join(f"  - path: {p}\n" for p in paths))
    end = ran(project, PLAN.format(name="count"), "-r", "r.yaml")
    assert end["outputs"] == {"all": {"words": 3, "tools": ["greet"]}}


def test_both_kinds_are_asked_alike(project):
    plan = """
name: p
steps:
  - {name: a, agent: count, inputs: {text: a b}}
  - {name: b, agent: old, inputs: {text: "{{ steps.a.outputs.words }} words"}}
outputs: {echo: "{{ steps.b.outputs.echo }}"}
"""
    end = ran(project, plan, "-a", "my_agents.COUNT", "-a", "my_agents.Old")
    assert end["outputs"] == {"echo": "2 words"}, end


def test_its_failure_is_the_steps(project):
    plan = "name: p\nsteps: [{name: s, agent: fail}]\n"
    end = ran(project, plan, "-a", "my_agents.FAIL")
    assert end["status"] == "failed"
    assert "nothing to count" in end["error"]


def test_one_of_a_package_is_found_by_its_name(project):
    install(project, "tally = counting:COUNT")
    assert ran(project, PLAN.format(name="tally"))["outputs"] == {"all": COUNTED}


def test_a_package_is_not_imported_before_its_agent_is_named(project):
    install(project, "tally = counting:COUNT", 'raise RuntimeError("imported")\n')
    assert ran(project, PLAN.format(name="count"), "-a", "my_agents.COUNT")["status"] == "success"
    found = json.loads(fractale(project, "list", "agents", "--json").stdout)["agents"]
    (listed,) = [each for each in found if each["name"] == "tally"]
    assert listed["server"] == "hpc-counting"
    assert listed["description"] == "Counts what there is."


@pytest.mark.parametrize(
    ("points", "module", "says"),
    [
        ("tally = counting:COUNT", 'raise RuntimeError("no licence")\n', "no licence"),
        ("tally = counting:COUNT", "import no_such_library\n", "no_such_library"),
        ("tally = counting:CUONT", MODULE, "no `CUONT`"),
        ("tally = counting:Old", MODULE, "`-a`"),
        ("tally = counting", MODULE, "counting"),
    ],
)
def test_one_that_cannot_be_loaded_is_named_with_its_package_and_the_cause(
    project, points, module, says
):
    install(project, points, module)
    (project / "plan.yaml").write_text(PLAN.format(name="tally"))
    done = fractale(project, "run", "plan.yaml")
    assert done.returncode == 3, done.stderr
    assert "`tally` of hpc-counting" in done.stderr
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_an_unknown_one_names_the_nearest(project):
    install(project, "tally = counting:COUNT")
    (project / "plan.yaml").write_text(PLAN.format(name="taly"))
    done = fractale(project, "run", "plan.yaml")
    assert done.returncode == 3
    assert "`tally`" in done.stderr


@pytest.mark.parametrize("path", ["my_agents.CUONT", "my_agent.COUNT", "COUNT"])
def test_a_path_that_names_nothing_is_told_with_what_there_is(project, path):
    (project / "plan.yaml").write_text(PLAN.format(name="count"))
    done = fractale(project, "run", "plan.yaml", "-a", path)
    assert done.returncode == 3
    assert path.rpartition(".")[0] in done.stderr
    assert "Traceback" not in done.stderr


def test_list_shows_them_with_where_they_are_from(project):
    found = fractale(project, "list", "agents", "-a", "my_agents.COUNT", "-a", "my_agents.Old")
    lines = [line.split() for line in found.stdout.splitlines()]
    assert ["count", "own", "Counts", "words."] in lines
    assert ["old", "local", "Echoes."] in lines
    assert ["ask", "fractale"] in [words[:2] for words in lines]


# -- the catalogue itself -------------------------------------------------------------------------


@pytest.fixture
def importable(project, monkeypatch):
    monkeypatch.syspath_prepend(str(project))
    yield project
    sys.modules.pop("my_agents", None)


def test_what_registries_list_is_told_apart(importable):
    (importable / "r.yaml").write_text(
        "tools:\n  - path: my_agents.greet\n  - {path: my_agents.COUNT, name: mine}\n"
    )
    given = [load_registry(importable / "r.yaml"), local_entries(["my_agents.FAIL"])]
    agents, rest = split_agents(given)
    assert [agent.name for agent in agents] == ["mine", "fail"]
    assert [entry.path for each in rest for entry in each.entries] == ["my_agents.greet"]


def test_the_same_one_twice_is_one_and_two_of_one_name_are_an_error(importable):
    twice = local_entries(["my_agents.COUNT", "my_agents.COUNT"])
    assert [agent.name for agent in split_agents([twice])[0]] == ["count"]
    both = local_entries(["my_agents.COUNT", "my_agents.SECOND"])
    with pytest.raises(PlanError, match="both called `count`"):
        split_agents([both])


async def nothing(host, request) -> AgentAnswer:
    return AgentAnswer(outputs={})


def test_a_persons_own_comes_before_fractales():
    own = Subagent(name="ask", description="Mine.", run=nothing)
    catalog = Catalog([own])
    assert catalog.find("ask") is own
    assert catalog.is_own("ask")
    assert catalog.names().count("ask") == 1
    assert catalog.describe()[0].description == "Mine."


def test_every_built_in_agent_is_what_its_name_says_and_has_a_summary():
    catalog = Catalog()
    assert [agent.name for agent in catalog.all()] == list(BUILT_IN)
    assert set(BUILT_IN) <= set(SUMMARIES)
    assert catalog.find("no_such_agent") is None


def test_listing_imports_no_engine(project):
    install(project, "tally = counting:COUNT")
    code = (
        "import sys\n"
        "from fractale.agents.catalog import Catalog\n"
        "names = [each.name for each in Catalog().describe()]\n"
        "assert 'tally' in names and 'ask' in names\n"
        "heavy = {'langgraph', 'langchain', 'langchain_core', 'mcp', 'counting'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    env = {**os.environ, "PYTHONPATH": str(project)}
    subprocess.run([sys.executable, "-c", code], check=True, env=env)


def test_registries_of_0_1_0_that_name_its_agents_get_the_built_in_ones(tmp_path):
    path = tmp_path / "analysis-agents.yaml"
    path.write_text(
        "tools:\n  - path: fractale_agents.parsers.ResultParserAgent\n"
        "  - path: fractale_agents.optimize.OptimizeAgent\n"
    )
    agents, rest = split_agents([load_registry(path)])
    assert [agent.name for agent in agents] == ["result_parse", "optimize"]
    assert rest == []
