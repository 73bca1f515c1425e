"""The doctor: what a plan, a registry or a server file needs, and how to get it."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import socket
import subprocess
import textwrap
import threading
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

import forked
import stand_ins
from fractale.agents.catalog import BUILT_IN
from fractale.errors import SettingsError
from fractale.findings import Finding
from fractale.plan.build import load_plan, parse_plan
from fractale.plan.model import JobPlan, Template
from fractale.registry import load_registry
from fractale.render.site import report_lines
from fractale.render.text import plain
from fractale.settings import Settings, load_settings
from fractale.site.checks.runs import room
from fractale.site.checks.site import check_queue, scheduler_check
from fractale.site.checks.tools import load_entries
from fractale.site.discover import discover, machine_of
from fractale.site.doctor import Report, Wanted, examine
from fractale.site.examination import Examination
from fractale.site.model import Check, Site
from fractale.site.needs import load_needs, read_needs
from fractale.site.plan_uses import inputs_of, jobs_of, named_by, programs_of
from fractale.testing.model_server import ModelServer, Reply
from servers.running import HttpServer, free_port, stdio
from snapshot import assert_same

PATIENT = 60.0
ROOT = Path(__file__).parents[2]
TOOLS = '''
def build(recipe: str) -> dict:
    """Build."""
    return {}

def look(path: str = ".") -> dict:
    """Look."""
    return {}
'''
PLAN = """
name: p
steps:
  - {name: first, tool: look}
  - {name: second, tool: build, inputs: {recipe: x}}
"""


@pytest.fixture
def project(tmp_path):
    """A folder with tools of one's own; nothing is on its PATH."""
    (tmp_path / "doctored_tools.py").write_text(TOOLS)
    (tmp_path / "bin").mkdir()
    return tmp_path


def registry(folder: Path, *paths: str, name: str = "tools.yaml", head: str = "") -> Path:
    """A registry of these paths; one that ends in `?` is optional."""
    lines = [
        f"  - {{path: {path.rstrip('?')}, optional: {str(path.endswith('?')).lower()}}}"
        for path in paths
    ]
    file = folder / name
    file.write_text("\n".join([head, "tools:", *lines, ""]))
    return file


def plan(folder: Path, text: str = PLAN) -> str:
    file = folder / "plan.yaml"
    file.write_text(text)
    return str(file)


def site(folder: Path, **more) -> Settings:
    """Settings of a machine whose PATH has only what a test puts there."""
    environment = {"PATH": str(folder / "bin"), "HOME": str(folder), **more.pop("env", {})}
    settings = load_settings(environment, folder)
    return replace(settings, state_dir=folder / ".fractale", **more)


async def doctor(settings: Settings, patience: float = PATIENT, online: bool = False, **wanted):
    return await examine(settings, Wanted(**wanted), timeout=patience, online=online)


def check(report: Report, what: str) -> Check:
    """The one check whose name begins so."""
    found = [each for each in report.checks if each.what.startswith(what)]
    assert len(found) == 1, [(each.what, each.found) for each in report.checks]
    return found[0]


# Plans and tools


async def test_a_plan_that_has_all_it_needs_is_fine(project):
    file = registry(project, "doctored_tools.build", "doctored_tools.look")
    report = await doctor(site(project), plan=plan(project), registries=[file])
    assert report.missing == 0, report.checks
    assert check(report, str(project / "plan.yaml")).found == "valid, 2 steps"
    assert check(report, "tools and agents").found == "found: look, build"
    assert check(report, "model").found == "no step asks one"


async def test_a_tool_that_is_not_there_is_missing_and_the_nearest_is_named(project):
    file = registry(project, "doctored_tools.build", "doctored_tools.look")
    text = PLAN.replace("tool: build", "tool: biuld")
    report = await doctor(site(project), plan=plan(project, text), registries=[file])
    found = check(report, "steps[1].tool")
    assert found.verdict == "missing"
    assert "`biuld`" in found.found
    assert found.fix == "did you mean `build`?"


async def test_what_is_not_installed_is_told_once_with_the_command(project):
    own = project / ".fractale" / "needs.yaml"
    own.parent.mkdir()
    own.write_text("packages: {doctored_absent: {install: 'doctored[all]', note: see the wiki}}")
    (project / "doctored_a.py").write_text("import doctored_absent\n")
    (project / "doctored_b.py").write_text("import doctored_absent.deeper\n")
    file = registry(project, "doctored_absent.one", "doctored_absent.more.two")
    found = check(await doctor(site(project), registries=[file]), "doctored_absent (2 entries)")
    assert (found.verdict, found.found) == (
        "missing",
        "`doctored_absent` isn't installed, or not on PYTHONPATH",
    )
    assert found.fix == "pip install 'doctored[all]' (see the wiki)"
    assert found.needed_by == ("one (tools.yaml:3)", "two (tools.yaml:4)")
    file = registry(project, "doctored_a.one", "doctored_b.two")
    below = check(await doctor(site(project), registries=[file]), "doctored_a, doctored_b")
    assert below.fix == found.fix, "what their modules import counts"


async def test_flux_mcp_without_flux_says_how_to_get_it(project):
    pytest.importorskip("flux_mcp", reason="flux-mcp is not installed")
    if importlib.util.find_spec("flux"):
        pytest.skip("Flux is here")
    file = registry(project, "flux_mcp.job.flux_submit_job", "flux_mcp.resource.flux_resource_list")
    report = await doctor(site(project), registries=[file])
    assert "fractale[flux]" in check(report, "flux_mcp (2 entries)").fix
    assert check(report, "flux-python").verdict == "missing"


async def test_a_name_that_is_gone_is_told_with_the_nearest_that_are(project):
    file = registry(project, "doctored_tools.biuld", "doctored_tools.looks?")
    report = await doctor(site(project), registries=[file])
    gone = check(report, "doctored_tools.biuld")
    assert (gone.verdict, gone.fix) == ("missing", "did you mean `doctored_tools.build`?")
    assert check(report, "doctored_tools.looks").verdict == "warning", "it is optional"


async def test_a_module_that_fails_when_imported_is_told_with_its_cause(project):
    (project / "doctored_broken.py").write_text("raise RuntimeError('no licence server')\n")
    (project / "doctored_ends.py").write_text("raise SystemExit(3)\n")
    file = registry(project, "doctored_broken.tool", "doctored_ends.tool")
    report = await doctor(site(project), registries=[file])
    assert "no licence server" in check(report, "doctored_broken").found
    assert report.missing == 2


async def test_a_step_whose_tool_can_not_be_imported_names_the_entry(project):
    file = registry(project, "doctored_tools.look", "doctored_tools.build_it")
    text = PLAN.replace("tool: build", "tool: build_it")
    report = await doctor(site(project), plan=plan(project, text), registries=[file])
    found = check(report, "build_it")
    assert found.needed_by == ("step second",)
    assert "doctored_tools.build_it" in found.found
    assert not [each for each in report.checks if each.what.startswith("steps[")]


async def test_an_invalid_plan_is_told_with_every_error(project):
    text = "name: p\nsteps:\n  - {name: a, tool: look, transitions: {success: nowhere}}\n"
    report = await doctor(site(project), plan=plan(project, text))
    assert check(report, str(project / "plan.yaml")).verdict == "missing"
    assert "nowhere" in check(report, "steps[0].transitions.success").found


@pytest.mark.parametrize("text", ["", "[", "steps: 3", "\0", "tools: {a: b}", "- x"])
async def test_files_that_are_nonsense_are_told_and_nothing_is_raised(project, text):
    file = project / "nonsense.yaml"
    file.write_text(text)
    report = await doctor(site(project), plan=str(file), registries=[file], server_files=[file])
    assert report.missing
    assert not [each for each in report.checks if "could not be examined" in each.found]


async def test_files_that_are_not_there_are_told(project):
    report = await doctor(site(project), plan="no.yaml", registries=[Path("none.yaml")])
    assert check(report, "no.yaml:1:1").verdict == "missing"
    assert check(report, "none.yaml").verdict == "missing"


async def test_agents_of_0_1_0_are_taken_by_the_built_in_ones(project):
    file = registry(project, "fractale_agents.parsers.ResultParserAgent")
    report = await doctor(site(project), registries=[file])
    assert report.missing == 0
    assert any(each.found == "has result_parse" for each in report.checks)
    served = await doctor(site(project), server_files=[file])
    assert check(served, "fractale_agents").verdict == "missing", "agents can't be served"


async def test_secret_inputs_are_looked_for_and_not_shown(project):
    text = "name: p\ninputs: {site_token: {type: string, secret: true, required: true}}\n"
    text += 'steps: [{name: a, tool: look, inputs: {path: "{{ inputs.site_token }}"}}]\n'
    file = registry(project, "doctored_tools.look")
    bare = await doctor(site(project), plan=plan(project, text), registries=[file])
    assert check(bare, "input site_token").verdict == "warning"
    given = site(project, env={"FRACTALE_INPUT_SITE_TOKEN": "canary-4711-secret"})
    report = await doctor(given, plan=plan(project, text), registries=[file])
    assert check(report, "input site_token").verdict == "ok"
    assert "canary" not in json.dumps(report.as_dict())


# What stands behind tools

DOCKER = "hpc_mcp.build.docker.docker_build_container"
BUILDING = """
name: p
steps:
  - {name: build, tool: docker_build_container, inputs: {dockerfile: FROM scratch, uri: x}}
"""


@pytest.fixture
def hpc():
    pytest.importorskip("hpc_mcp", reason="hpc-mcp is not installed")


@pytest.mark.usefixtures("hpc")
async def test_a_tool_that_needs_docker_needs_its_engine(project):
    file = registry(project, DOCKER)
    none = check(await doctor(site(project), registries=[file]), "docker-or-podman")
    assert none.verdict == "missing"
    assert "no `docker` on PATH; no `podman` on PATH" in none.found
    stand_ins.podman(project / "bin")
    podman = check(await doctor(site(project), registries=[file]), "docker-or-podman")
    assert podman.verdict == "ok"
    stand_ins.no_engine(project / "bin")
    client = check(await doctor(site(project), registries=[file]), "docker-or-podman")
    assert client.verdict == "missing", "hpc-mcp takes docker where it is on the PATH"
    assert "a client without an engine" in client.found
    assert client.needed_by == ("docker_build_container",)
    assert "take `docker` off the PATH" in client.fix


@pytest.mark.usefixtures("hpc")
async def test_what_the_plan_does_not_use_is_only_a_warning(project):
    file = registry(project, DOCKER, "doctored_tools.look", "doctored_tools.build")
    unused = await doctor(site(project), plan=plan(project), registries=[file])
    assert check(unused, "docker-or-podman").verdict == "warning"
    assert "no step of the plan names" in check(unused, "docker-or-podman").found
    used = await doctor(site(project), plan=plan(project, BUILDING), registries=[file])
    assert check(used, "docker-or-podman").verdict == "missing"
    text = "name: p\nsteps: [{name: free, type: agent, instruction: build it}]\n"
    free = await doctor(site(project), plan=plan(project, text), registries=[file])
    assert check(free, "docker-or-podman").verdict == "warning"
    assert "only if the model of `free`" in check(free, "docker-or-podman").found
    text = "name: p\nsteps: [{name: s, type: agent, instruction: x, tools: ['docker_*']}]\n"
    named = await doctor(site(project), plan=plan(project, text), registries=[file])
    assert check(named, "docker-or-podman").verdict == "missing"


@pytest.mark.usefixtures("hpc")
async def test_a_prompt_beside_a_tool_does_not_need_what_the_tool_needs(project):
    file = registry(project, "hpc_mcp.build.docker.docker_build_persona_prompt")
    report = await doctor(site(project), registries=[file])
    assert report.missing == 0


async def test_a_table_of_ones_own_adds_to_what_is_known(project):
    own = project / ".fractale" / "needs.yaml"
    own.parent.mkdir()
    own.write_text(
        "needs: {lmp: {program: lmp, what: LAMMPS, get: module load lammps}}\n"
        "tools: [{path: doctored_tools.build, needs: [lmp]}]\n"
    )
    file = registry(project, "doctored_tools.build")
    lacking = check(await doctor(site(project), registries=[file]), "lmp")
    assert (lacking.verdict, lacking.fix) == ("missing", "module load lammps")
    stand_ins.says(project / "bin", "lmp", _="LAMMPS 2025.7.22")
    there = check(await doctor(site(project), registries=[file]), "lmp")
    assert there.verdict == "ok"
    assert "2025.7.22" in there.found
    own.write_text("tools: [{path: a, needs: [nothing]}]\n")
    wrong = await doctor(site(project), registries=[file])
    assert "`nothing` is not defined" in check(wrong, str(own)).found


def test_the_longest_path_counts():
    needs = load_needs()
    assert [need.name for need in needs.of("hpc_mcp.build.docker.kind_load")] == [
        "kind",
        "docker-or-podman",
    ]
    assert needs.of("hpc_mcp.build.docker.docker_fix_persona_prompt") == []
    assert [need.name for need in needs.of("hpc_mcp.git.git_clone")] == ["git"]
    assert needs.of("hpc_mcp.gitlab.x") == []
    assert needs.of("json.dumps") == []


def test_every_need_of_the_table_says_what_it_is_and_how_to_get_it():
    for need in load_needs().needs.values():
        assert need.what
        assert need.get


@pytest.mark.parametrize(
    "data",
    [
        [],
        {"needs": {"a": {}}},
        {"needs": {"a": {"program": "x", "works": "y"}}},
        {"tools": [{"needs": []}]},
        {"tools": "x"},
        {"packages": {"a": {}}},
        {"needs": 3},
    ],
)
def test_a_table_of_another_form_is_refused(data):
    if data:
        with pytest.raises(SettingsError):
            read_needs(data, "needs.yaml")
    else:
        assert not read_needs(data, "needs.yaml").needs


# Servers


async def test_servers_of_the_settings_are_reached(project):
    with HttpServer("tools_server.py") as web:
        servers = {"here": stdio("here"), "web": web.settings("web")}
        report = await doctor(site(project, servers=servers))
        assert check(report, "server here").verdict == "ok"
        assert check(report, "server web").verdict == "ok"
        assert "tools" in check(report, "server web").found


async def test_a_server_that_is_not_there_is_missing_where_it_is_needed(project):
    away = replace(stdio("away"), command="no-such-mcp", args=(), origin="config.yaml")
    settings = site(project, servers={"away": away})
    general = check(await doctor(settings), "server away")
    assert general.verdict == "missing"
    assert "`no-such-mcp` is not on the PATH" in general.fix
    file = registry(project, "doctored_tools.build", "doctored_tools.look")
    elsewhere = await doctor(settings, plan=plan(project), registries=[file])
    assert check(elsewhere, "server away").verdict == "warning", "all tools are in the registry"
    unknown = await doctor(settings, plan=plan(project))
    assert check(unknown, "server away").verdict == "missing"
    assert "`away` can't be asked" in check(unknown, "steps[0].tool").found
    named = PLAN.replace("steps:", "servers: [away]\nsteps:")
    report = await doctor(settings, plan=plan(project, named), registries=[file])
    assert check(report, "server away").verdict == "missing"
    strange = PLAN.replace("steps:", "servers: [awya]\nsteps:")
    report = await doctor(settings, plan=plan(project, strange), registries=[file])
    assert "did you mean `away`" in check(report, "plan").fix


async def test_a_command_that_is_no_file_and_one_that_ends_are_told_apart(project):
    ends = stand_ins.write(project / "bin", "ends", "exit 3")
    servers = {
        name: replace(stdio(name), command=command, args=(), origin="config.yaml")
        for name, command in {"gone": "/no/such/mcp", "ends": str(ends)}.items()
    }
    report = await doctor(site(project, servers=servers))
    assert check(report, "server gone").fix.startswith("/no/such/mcp was not found")
    assert "by hand" in check(report, "server ends").fix


async def test_two_tools_of_one_name_can_not_be_served_and_are_told(project):
    (project / "doctored_more.py").write_text(TOOLS)
    file = registry(project, "doctored_tools.build", "doctored_more.build")
    report = await doctor(site(project), plan=plan(project), registries=[file])
    assert any("are both called `build`" in each.found for each in report.checks)
    assert report.missing


async def test_a_catalogs_tools_and_included_plans_count(project):
    (project / "doctored_catalog.py").write_text(
        "class Catalog:\n"
        "    def look(self, path: str = '.') -> dict: return {}\n"
        "    look.is_tool = True\n"
        "    def other(self): return {}\n"
    )
    file = registry(project)
    file.write_text("catalogs:\n  - path: doctored_catalog.Catalog\n")
    plan(project, "name: inner\nsteps: [{name: b, tool: look}]\n")
    outer = project / "outer.yaml"
    outer.write_text("name: outer\nsteps: [{name: a, plan: plan.yaml}]\n")
    report = await doctor(site(project), plan=str(outer), registries=[file])
    assert report.missing == 0, report.checks
    assert "look" in check(report, "tools and agents").found


async def test_a_server_file_over_stdio_needs_no_port(project):
    file = registry(project, "doctored_tools.build", head="server: {transport: stdio}")
    assert check(await doctor(site(project), server_files=[file]), "serving").found == "over stdio"


async def test_what_a_file_says_without_effect_is_a_warning(project):
    file = registry(project, "doctored_tools.build", head="events: [a]")
    report = await doctor(site(project), registries=[file])
    assert any("has no effect" in each.found for each in report.checks)


async def test_a_server_that_never_answers_is_waited_for_only_so_long(project):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        held: list[socket.socket] = []

        def accept() -> None:
            try:
                while True:
                    held.append(silent.accept()[0])
            except OSError:
                pass

        threading.Thread(target=accept, daemon=True).start()
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/mcp"
        servers = {"silent": replace(stdio("silent"), transport="http", command=None, url=url)}
        report = await doctor(site(project, servers=servers), patience=1.0)
        for connection in held:
            connection.close()
    assert check(report, "server silent").verdict == "missing"


async def test_a_server_file_is_examined_as_it_would_be_served(project):
    head = "server: {transport: http, host: 0.0.0.0, port: 0}"
    file = registry(project, "doctored_tools.build", head=head)
    refused = check(await doctor(site(project), server_files=[file]), "serving")
    assert refused.verdict == "missing"
    assert "FRACTALE_MCP_TOKEN" in refused.fix
    tokened = site(project, env={"FRACTALE_MCP_TOKEN": "canary-token-4711"})
    settings = replace(tokened, servers={})
    report = await doctor(settings, server_files=[file])
    assert check(report, "serving").verdict == "ok"
    assert "canary" not in json.dumps(report.as_dict())
    assert not [each for each in report.checks if each.section in ("model", "runs")]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        head = f"server: {{port: {taken.getsockname()[1]}}}"
        file = registry(project, "doctored_tools.build", head=head)
        busy = check(await doctor(site(project), server_files=[file]), "serving")
    assert busy.verdict == "warning"


async def test_a_plan_may_be_for_the_tools_of_a_server_file(project):
    file = registry(project, "doctored_tools.build", "doctored_tools.look")
    report = await doctor(site(project), plan=plan(project), server_files=[file])
    assert check(report, "tools and agents").verdict == "ok"


# Models

ASKING = "name: p\nsteps: [{name: a, type: agent, instruction: say hello}]\n"


async def test_a_model_without_its_key_is_missing_for_a_plan_that_asks_it(project):
    report = await doctor(site(project, provider="openai"), plan=plan(project, ASKING))
    found = check(report, "openai:")
    assert found.verdict == "missing"
    assert "OPENAI_API_KEY is not set" in found.found
    general = await doctor(site(project, provider="openai"))
    assert check(general, "openai:").verdict == "warning", "a plan may do without"


async def test_a_key_is_told_of_and_never_shown(project):
    env = {"OPENAI_API_KEY": "sk-canary-4711-secret", "FRACTALE_LLM_PROVIDER": "openai"}
    report = await doctor(site(project, env=env), plan=plan(project, ASKING))
    found = check(report, "openai:")
    assert (found.verdict, "key set (OPENAI_API_KEY)" in found.found) == ("ok", True)
    assert "canary" not in json.dumps(report.as_dict())


async def test_online_the_model_is_asked(project):
    with ModelServer(["ok"]) as server:
        report = await doctor(
            site(project, model="openai:any", openai_base_url=server.openai_url),
            plan=plan(project, ASKING),
            online=True,
        )
        assert len(server.requests) == 1
    assert "answered in" in check(report, "openai:any").found


async def test_online_a_wrong_key_is_found(project):
    with ModelServer([Reply(status=401)]) as server:
        settings = site(
            project,
            model="openai:any",
            openai_api_key="sk-canary-4711-secret",
            openai_base_url=server.openai_url,
        )
        report = await doctor(settings, plan=plan(project, ASKING), online=True)
    assert check(report, "openai:any").verdict == "missing"
    assert "canary" not in json.dumps(report.as_dict())


async def test_a_models_server_that_is_away_is_found(project):
    url = f"http://127.0.0.1:{free_port()}/v1"
    settings = site(project, model="openai:any", openai_base_url=url)
    report = await doctor(settings, plan=plan(project, ASKING), online=True)
    assert check(report, "openai:any").verdict == "missing"


async def test_a_limit_of_cost_needs_a_price(project):
    text = ASKING.replace("steps", "limits: {cost: 1.0}\nsteps")
    settings = site(project, model="openai:any", openai_base_url="http://127.0.0.1:9/v1")
    report = await doctor(settings, plan=plan(project, text))
    assert check(report, "price of openai:any").verdict == "missing"


async def test_a_model_file_that_is_none_is_found(project):
    (project / "a.gguf").write_text("not a model")
    settings = site(project, provider="local", local_model=str(project / "a.gguf"))
    report = await doctor(settings, plan=plan(project, ASKING))
    assert check(report, "local:").verdict == "missing"


@pytest.mark.parametrize(
    ("model", "verdict", "words"),
    [
        ("nope:x", "missing", "no provider is called"),
        ("anthropic:x", "missing", "ANTHROPIC_API_KEY"),
        ("ollama:x", "missing", "langchain-ollama"),
        ("google_vertexai:x", "missing", "langchain-google-vertexai"),
    ],
)
async def test_other_providers_are_examined_too(project, model, verdict, words):
    report = await doctor(site(project, model=model), plan=plan(project, ASKING))
    found = check(report, model.partition(":")[0])
    assert (found.verdict, words in f"{found.found} {found.fix}") == (verdict, True)


async def test_a_fallback_that_can_not_be_had_is_a_warning(project):
    url = "http://127.0.0.1:9/v1"
    settings = site(project, model="openai:any", openai_base_url=url)
    settings = replace(settings, fallback_models=("gemini:x",))
    report = await doctor(settings, plan=plan(project, ASKING))
    assert check(report, "gemini:x").verdict == "warning"
    assert report.missing == 0


# Where runs are kept


async def test_a_state_folder_that_can_not_be_made_is_missing(project):
    (project / "file").touch()
    settings = site(project)
    report = await doctor(replace(settings, state_dir=project / "file" / "state"))
    found = check(report, "state directory")
    assert found.verdict == "missing"
    assert "FRACTALE_STATE_DIR" in found.fix


async def test_the_doctor_leaves_nothing_behind(project):
    await doctor(site(project))
    assert {path.name for path in project.iterdir()} <= {"doctored_tools.py", "bin", "__pycache__"}


async def test_a_state_folder_that_others_can_read_is_told(project):
    folder = project / ".fractale"
    folder.mkdir()
    folder.chmod(0o755)
    assert check(await doctor(site(project)), "privacy").fix == f"chmod 700 {folder}"


@pytest.mark.parametrize(
    ("free", "files", "verdict"),
    [
        (10**12, 10**6, "ok"),
        (10**12, None, "ok"),
        (10**8, 10**6, "warning"),
        (10**6, 10**6, "missing"),
        (10**12, 5, "warning"),
        (10**12, 0, "missing"),
    ],
)
def test_little_room_is_a_warning_and_hardly_any_is_missing(free, files, verdict):
    found = Finding(name="runs", details={"free_bytes": free, "free_files": files})
    assert room(found).verdict == verdict


async def test_a_store_that_is_away_is_missing_and_its_password_is_not_shown(project):
    pytest.importorskip("psycopg", reason="psycopg is not installed")
    url = f"postgresql://anna:canary-4711@127.0.0.1:{free_port()}/runs"
    report = await doctor(site(project, env={"FRACTALE_STORE": url}))
    assert check(report, "store").verdict == "missing"
    assert "canary" not in json.dumps(report.as_dict())


async def test_a_check_that_fails_is_a_line_and_no_traceback(project):
    report = await doctor(replace(site(project), state_dir=Path("\0")))
    assert any(each.section == "runs" and each.verdict == "missing" for each in report.checks)


# The site, the command, the text


@pytest.mark.parametrize(
    ("states", "named", "verdict", "words"),
    [
        ({}, None, "ok", "jobs run as processes of this machine"),
        ({"slurm": "works"}, None, "ok", "slurm"),
        ({"slurm": "broken"}, None, "missing", "no controller"),
        ({"slurm": "broken"}, "local", "ok", "jobs run as processes of this machine"),
        ({}, "slurm", "missing", "slurm"),
        ({"slurm": "broken", "pbs": "works"}, None, "ok", "pbs"),
        ({"slurm": "broken", "pbs": "works"}, "slurm", "missing", "no controller"),
        ({"slurm": "broken", "pbs": "works"}, "pbs", "ok", "pbs"),
        # Flux, outside an instance of it, is behind the others.
        ({"flux": "broken", "slurm": "works"}, None, "ok", "slurm"),
    ],
)
async def test_jobs_need_the_scheduler_that_they_go_to(project, states, named, verdict, words):
    for name in states:
        stand_ins.submits(project / "bin", name, answers=states[name] == "works")
    there = tuple(Finding(name=n, state=s, problem="no controller") for n, s in states.items())
    settings = site(project)
    exam = Examination(
        settings=settings,
        place=machine_of(settings),
        site=Site(host="x", looked=0, seconds=0, sections={"schedulers": there}),
        needs=load_needs(),
    )
    found = await scheduler_check(exam, named)
    assert (found.verdict, words in found.found) == (verdict, True), found
    if "works" in states.values() and verdict == "missing":
        assert "or name `scheduler: pbs`" in found.fix


async def test_jobs_on_flux_need_its_python_bindings_too(project):
    stand_ins.submits(project / "bin", "flux")
    state = project / ".fractale"
    state.mkdir()
    (state / "needs.yaml").write_text("needs: {flux-python: {module: no_such_module, get: x}}\n")
    settings = site(project)
    flux = Finding(name="flux", version="0.64")
    exam = Examination(
        settings=settings,
        place=machine_of(settings),
        site=Site(host="x", looked=0, seconds=0, sections={"schedulers": (flux,)}),
        needs=load_needs(state / "needs.yaml"),
    )
    found = await scheduler_check(exam, None)
    assert (found.verdict, "no_such_module" in found.found) == ("missing", True)
    # We are in an instance: to start one is no help.
    assert found.fix.startswith("x")
    assert "flux start" not in found.fix


async def test_without_anything_the_features_of_the_site_are_told(project):
    stand_ins.slurm(project / "bin")
    stand_ins.no_engine(project / "bin")
    stand_ins.podman(project / "bin")
    report = await doctor(site(project))
    assert report.missing == 0, "nothing asked for any of them"
    assert check(report, "scheduler slurm").verdict == "ok"
    assert check(report, "containers podman").verdict == "ok"
    docker = check(report, "containers docker")
    assert (docker.verdict, docker.fix.startswith("start its engine")) == ("warning", True)
    assert check(report, "kubernetes").verdict == "warning"
    assert check(report, "spack").fix


@pytest.mark.parametrize(
    ("job", "verdict", "words"),
    [
        (JobPlan(queue="batch", time=3600.0), "ok", "slurm has it"),
        (JobPlan(queue="bacth"), "missing", "did you mean `batch`?"),
        (
            JobPlan(queue="debug", time=3600.0),
            "missing",
            "at most 30 min, and the step asks for 60",
        ),
        (JobPlan(queue="debug", time=3600.0, scheduler="local"), None, ""),
        (JobPlan(), None, ""),
    ],
)
async def test_the_queue_that_a_job_names_must_be_there_and_take_it(project, job, verdict, words):
    stand_ins.slurm(project / "bin")
    stand_ins.submits(project / "bin", "slurm")
    settings = site(project)
    place = replace(machine_of(settings), timeout=PATIENT)
    found = await discover(place, ["slurm"])
    exam = Examination(settings=settings, place=place, site=found, needs=load_needs())
    checks = check_queue(exam, "run", job)
    assert [each.verdict for each in checks] == ([verdict] if verdict else [])
    assert words in "".join(f"{each.found} {each.fix}" for each in checks)


async def test_a_plan_with_a_job_is_held_against_the_scheduler(project):
    text = "name: p\nsteps: [{name: a, type: job, command: [hostname], queue: bacth}]\n"
    alone = await doctor(site(project), plan=plan(project, text))
    assert "jobs run as processes of this machine" in check(alone, "scheduler").found
    stand_ins.slurm(project / "bin")
    stand_ins.submits(project / "bin", "slurm")
    report = await doctor(site(project), plan=plan(project, text))
    assert check(report, "scheduler").found == "slurm 22.05.8"
    assert check(report, "queue bacth").fix == "did you mean `batch`?"


def command(folder: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    kept = {k: v for k, v in os.environ.items() if k.startswith("COVERAGE_")}
    env = {**kept, "PATH": str(folder / "bin"), "HOME": str(folder), "LANG": "C.UTF-8", **variables}
    return forked.run(["doctor", *words], cwd=folder, env=env, timeout=240)


def test_the_command_ends_with_0_where_all_is_there_and_1_where_not(project):
    registry(project, "doctored_tools.build", "doctored_tools.look")
    plan(project)
    good = command(project, "plan.yaml", "-r", "tools.yaml")
    assert good.returncode == 0, good.stdout + good.stderr
    assert good.stdout.endswith("all requirements are met\n")
    assert "\x1b" not in good.stdout
    bad = command(project, "plan.yaml", "--json")
    assert bad.returncode == 1
    found = json.loads(bad.stdout)
    assert found["ok"] is False
    assert found["missing"] == sum(each["verdict"] == "missing" for each in found["checks"])


def test_what_tools_print_while_they_are_imported_does_not_disturb_json(project):
    (project / "doctored_loud.py").write_text("print('loud')\ndef tool() -> dict: return {}\n")
    registry(project, "doctored_loud.tool")
    told = command(project, "-r", "tools.yaml", "--json")
    assert json.loads(told.stdout)["ok"] is True
    assert "loud" in told.stderr


def test_broken_settings_are_an_error_and_no_traceback(project):
    (project / ".fractale").mkdir()
    (project / ".fractale/config.yaml").write_text("servers: [")
    told = command(project)
    assert told.returncode == 2
    assert "Traceback" not in told.stderr


# What fractale's own tools need


CONTAINERS = (
    "fractale.tools.containers.build_container",
    "fractale.tools.containers.find_builders",
)
BUILDS = """
name: p
inputs: {builder: auto}
steps:
  - {name: look, tool: find_builders}
  - name: build
    tool: build_container
    inputs: {dockerfile: FROM scratch, uri: a, builder: "{{ inputs.builder }}"}
"""


async def test_any_container_engine_that_works_will_do(project):
    file = registry(project, *CONTAINERS)
    wanted = {"plan": plan(project, BUILDS), "registries": [file]}
    none = check(await doctor(site(project), **wanted), "container-builder")
    assert none.verdict == "missing"
    assert all(f"no `{name}` on PATH" in none.found for name in ("docker", "podman", "buildah"))
    assert none.needed_by == ("build_container",)
    stand_ins.no_engine(project / "bin")
    client = check(await doctor(site(project), **wanted), "container-builder")
    assert (client.verdict, "without an engine" in client.found) == ("missing", True)
    stand_ins.podman(project / "bin")
    podman = check(await doctor(site(project), **wanted), "container-builder")
    assert (podman.verdict, podman.found.startswith("podman 4.3.1")) == ("ok", True)
    for builder, verdict in (("docker", "missing"), ("podman", "ok"), ("buildah", "missing")):
        report = await doctor(site(project), **wanted, inputs={"builder": builder})
        found = check(report, "container-builder")
        assert (found.verdict, builder in found.found) == (verdict, True)


async def test_looking_for_container_engines_needs_none(project):
    file = registry(project, CONTAINERS[1])
    text = "name: p\nsteps: [{name: look, tool: find_builders}]\n"
    report = await doctor(site(project), plan=plan(project, text), registries=[file])
    assert report.missing == 0


SUBMITS = """
name: p
inputs: {scheduler: null}
steps:
  - name: go
    tool: job_submit
    inputs: {script: hostname, scheduler: "{{ inputs.scheduler }}"}
"""


async def test_a_tool_that_submits_needs_the_scheduler_that_it_submits_to(project):
    file = registry(project, "fractale.tools.jobs.job_submit", "fractale.tools.jobs.job_logs")
    wanted = {"plan": plan(project, SUBMITS), "registries": [file]}
    assert check(await doctor(site(project), **wanted), "scheduler").verdict == "ok"
    stand_ins.submits(project / "bin", "slurm")
    lost = check(await doctor(site(project), **wanted), "scheduler")
    assert (lost.verdict, lost.needed_by) == ("missing", ("job_submit",))
    local = await doctor(site(project), **wanted, inputs={"scheduler": "local"})
    assert check(local, "scheduler").verdict == "ok"
    text = "name: p\nsteps: [{name: s, tool: job_logs, inputs: {job: {}}}]\n"
    logs = await doctor(site(project), plan=plan(project, text), registries=[file])
    assert check(logs, "scheduler").verdict == "warning"


async def test_a_sub_agent_of_fractale_needs_what_it_needs_without_a_registry(project):
    own = project / ".fractale" / "needs.yaml"
    own.parent.mkdir()
    own.write_text("needs: {search: {packages: [no-such-package], what: a search, get: install}}\n")
    text = "name: p\nsteps: [{name: tune, agent: optimize, inputs: {goal: x}}]\n"
    found = check(await doctor(site(project), plan=plan(project, text)), "search")
    assert (found.verdict, found.needed_by) == ("missing", ("optimize",))
    text = "name: p\nsteps: [{name: ask, agent: ask, instruction: x}]\n"
    report = await doctor(site(project), plan=plan(project, text))
    assert not [each for each in report.checks if each.what == "search"]


@pytest.mark.parametrize(
    ("script", "programs"),
    [
        ("hostname", ["hostname"]),
        ("#!/bin/bash\n#SBATCH -N 1\n\nset -e\ncd /tmp\nexec lmp -in x", ["lmp"]),
        ("exec mpirun -n 4 lmp -in in.lj \\\n  -sf omp", ["mpirun", "lmp"]),
        ("srun -n 4 -c {threads} --mem=4G ./a.out", ["srun"]),
        ("srun -p debug lmp", ["srun"]),
        ("OMP_NUM_THREADS=2 lmp\nlmp", ["lmp"]),
        ("{unknown} {unknown}", []),
        ("$HOME/run x\n./made-before\n/opt/lmp", ["/opt/lmp"]),
        ("module load lammps\nlmp", []),
        ("python3 - <<END\nimport os\nEND\n", ["python3"]),
        ("#!/usr/bin/env python3\nimport os\n", []),
        ("greet() {\n  echo hi\n}\ngreet\n", []),
        ("echo 'a\nb'", []),
        ("if true; then lmp; fi", []),
    ],
)
def test_the_programs_that_a_script_starts(script, programs):
    assert programs_of(script) == programs


async def test_programs_of_a_jobs_script_are_looked_for(project):
    text = """
        name: p
        inputs: {lmp: lmp}
        steps:
          - {name: a, type: job, script: "exec mpirun -n 2 {{ inputs.lmp }}"}
          - {name: b, type: job, command: [lmp, "{{ run.id }}"]}
        """
    file = plan(project, textwrap.dedent(text))
    stand_ins.write(project / "bin", "mpirun", "exit 0")
    report = await doctor(site(project), plan=file)
    assert check(report, "program mpirun").verdict == "ok"
    lacking = check(report, "program lmp")
    assert (lacking.verdict, lacking.needed_by) == ("warning", ("step a", "step b"))
    assert "fractale[lammps]" in lacking.fix
    report = await doctor(site(project), plan=file, inputs={"lmp": "/opt/lmp"})
    assert check(report, "program /opt/lmp").needed_by == ("step a",)


def test_what_is_settled_before_a_run():
    text = """
        name: outer
        inputs: {queue: debug, time: 10m, secret: {type: string, secret: true}}
        steps:
          - {name: one, type: job, command: [hostname], queue: "{{ inputs.queue }}",
             time: "{{ inputs.time }}", scheduler: "{{ steps.one.outputs.x }}"}
        """
    plan = parse_plan(textwrap.dedent(text))
    [job] = jobs_of(plan, {"queue": "long"})
    assert (job.job.queue, job.job.time) == ("long", 600.0)
    assert isinstance(job.job.scheduler, Template)
    assert "secret" not in inputs_of(plan, {"secret": "x"})


PLANS = sorted((ROOT / "plans").glob("*.yaml"))
NEEDED = {
    "build-container": {"container-builder", "model"},
    "build-dockerfile": {"container-builder"},
    "demo": {"model"},
    "joke": {"model"},
    "kubernetes-job": {"kubectl", "kubernetes"},
    "lammps": set(),
    "lammps-log": set(),
    "lammps-optimize": set(),
    "result-parser": {"model"},
    "spack": {"spack"},
    "transform-retry": {"model"},
    "translate": set(),
}
"""Plan → what it needs that a machine with nothing but fractale does not have."""


def registries_of(file: Path) -> list[Path]:
    """The registries of a plan's file, as its first lines say how it is run."""
    command = re.search(rf"fractale run plans/{file.name}(.*)", file.read_text())
    assert command, "its head says how it is run"
    return [ROOT / name for name in re.findall(r"-r (\S+)", command[1])]


@pytest.mark.usefixtures("hpc")
@pytest.mark.parametrize("file", PLANS, ids=lambda file: file.stem)
async def test_of_all_that_fractales_plans_name_it_is_known_what_it_needs(project, file):
    registries = [load_registry(path) for path in registries_of(file)]
    loaded = await load_entries(registries, served=False)
    paths = {name: each.entry.path for each in loaded for name in each.names}
    paths |= {name: module for name, (module, _) in BUILT_IN.items()}
    needs = load_needs()
    for pattern in named_by(load_plan(str(file))).names:
        named = [name for name in paths if fnmatchcase(name, pattern)]
        assert named or pattern == "ask_person", pattern
        assert all(needs.knows(paths[name]) for name in named), named
    assert all(needs.knows(each.entry.path) for each in loaded)


@pytest.mark.usefixtures("hpc")
@pytest.mark.parametrize("file", PLANS, ids=lambda file: file.stem)
async def test_plans_of_fractale_lack_what_they_need_and_nothing_else(project, file):
    wanted = {"plan": str(file), "registries": registries_of(file)}
    report = await doctor(site(project), **wanted)
    lacking = {
        each.section if each.section == "model" else each.what: each for each in report.checks
    }
    missing = {name for name, each in lacking.items() if each.verdict == "missing"}
    assert missing == NEEDED[file.stem]
    warned = {each.what for each in report.checks if each.verdict == "warning"}
    programs = {"program lmp", "program mpirun"}
    assert warned == (programs if "lmp" in load_plan(str(file)).inputs else set())


def test_a_report_is_shown_so_that_one_sees_what_to_do():
    assert_same("doctor", "".join(plain(line) + "\n" for line in report_lines(REPORT)))


@pytest.mark.parametrize("width", [20, 50, 70, 96, 300])
def test_lines_fit_the_screen(width):
    lines = [plain(line) for line in report_lines(REPORT, width)]
    assert max(map(len, lines)) <= max(50, min(width, 96))


def test_a_state_folder_that_others_can_only_see_is_a_warning(tmp_path):
    folder = tmp_path / ".fractale"
    folder.mkdir()
    folder.chmod(0o755)
    env = {"HOME": str(tmp_path), "PATH": os.environ["PATH"]}
    ran = forked.run(["doctor", "--site-rules", "--json"], cwd=tmp_path, env=env)
    found = {each["what"]: each for each in json.loads(ran.stdout)["checks"]}
    assert found["state directory"]["verdict"] == "warning"
    assert found["state directory"]["fix"] == f"chmod 700 {folder}"
    assert found["files"]["verdict"] == "ok"


REPORT = Report(
    checks=(
        Check(section="plan", what="build.yaml", found="valid, 4 steps"),
        Check(
            section="plan",
            what="steps[2].tool",
            verdict="missing",
            found="no server has the tool `flux_sumbit_job` (build.yaml:14:11)",
            fix="did you mean `flux_submit_job`?",
        ),
        Check(section="tools", what="hpc-mcp 0.0.18", found="has build_container, build_expert"),
        Check(
            section="tools",
            what="docker-or-podman",
            verdict="missing",
            found="a container engine: a client without an engine: Cannot connect to the Docker "
            "daemon at unix:///var/run/docker.sock. Is the docker daemon running?",
            fix="start the Docker engine, or take `docker` off the PATH so that podman is used",
            needed_by=("build_container", "push_container"),
        ),
        Check(
            section="tools",
            what="a.very.long.dotted.path.of.some_tool",
            verdict="warning",
            found="`a` isn't installed",
            needed_by=tuple(f"tool_{number}" for number in range(9)),
        ),
        Check(section="model", what="openai:gpt-4.1", found="key set (OPENAI_API_KEY)"),
    )
)
