"""Registry and server files: what they list, what is wrong with them, and what they serve."""

from __future__ import annotations

import asyncio
import itertools
import sys
import textwrap
import threading
import tomllib
from importlib.util import find_spec
from pathlib import Path

import pytest
from langchain_core.tools import tool as langchain_tool

from fractale.errors import PlanError, Position, ToolError
from fractale.mcp import EmbeddedServer, McpToolbox
from fractale.registry import (
    build_server,
    import_entry,
    load_registry,
    local_entries,
)
from fractale.registry.imports import PACKAGES

COUNTER = itertools.count()


@pytest.fixture(autouse=True)
def own_import_path(monkeypatch):
    """What a test makes importable is gone after it."""
    monkeypatch.setattr(sys, "path", [*sys.path])


@pytest.fixture
def module(tmp_path):
    """Write a module beside the registry files; gives its name, which no other test has."""

    def write(code: str) -> str:
        name = f"local_module_{next(COUNTER)}"
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(code))
        return name

    return write


@pytest.fixture
def registry(tmp_path):
    """Write and read a registry file."""

    def write(text: str, name: str = "tools.yaml"):
        (tmp_path / name).write_text(textwrap.dedent(text))
        return load_registry(tmp_path / name)

    return write


@pytest.fixture
def toolbox():
    """What is in registries, as a run sees it."""

    def make(*registries, functions=(), on_warning=None) -> McpToolbox:
        server = build_server(registries, functions=functions, on_warning=on_warning)
        return McpToolbox([EmbeddedServer(server=server)])

    return make


def problems(action, *arguments) -> list[str]:
    """Each problem as `line code: message`, in order."""
    with pytest.raises(PlanError) as caught:
        action(*arguments)
    found = caught.value.problems
    return [f"{p.position.line if p.position else 0} {p.code}: {p.message}" for p in found]


# Reading files


def test_a_server_file_says_what_to_serve_and_how(registry):
    found = registry(
        """
        server:
          transport: http
          port: 8089
          host: "0.0.0.0"

        tools:
          - path: hpc_mcp.build.docker.docker_build_container
            name: build_container

        prompts:
          - path: hpc_mcp.build.docker.docker_build_persona_prompt
            name: build_expert
        """
    )
    assert [(e.kind, e.path, e.name) for e in found.entries] == [
        ("tool", "hpc_mcp.build.docker.docker_build_container", "build_container"),
        ("prompt", "hpc_mcp.build.docker.docker_build_persona_prompt", "build_expert"),
    ]
    assert (found.server.transport, found.server.host, found.server.port) == (
        "http",
        "0.0.0.0",
        8089,
    )
    assert found.entries[0].position == Position(found.file, 8, 11)
    assert found.warnings == ()


def test_a_registry_of_tools_only_leaves_the_server_open(registry):
    found = registry(
        """
        tools:
          # a comment
          - path: fractale_agents.parsers.ResultParserAgent
          - pkg.bare.path
        """
    )
    assert [e.path for e in found.entries] == [
        "fractale_agents.parsers.ResultParserAgent",
        "pkg.bare.path",
    ]
    assert found.server.host is None


def test_all_that_is_wrong_with_a_file_is_told_at_once(registry):
    found = problems(
        registry,
        """
        toolz: []
        tools:
          - name: nameless
          - {path: a.b, optinal: true}
          - {path: a.b, optional: maybe}
          - {path: a.b, annotations: {readonlyhint: true, destructiveHint: 1}}
          - 7
        server: {transport: smoke, port: 70000}
        """,
    )
    assert [line.partition(":")[0] for line in found] == [
        "2 unknown-key",
        "4 missing-key",
        "5 unknown-key",
        "6 wrong-type",
        "7 unknown-key",
        "7 wrong-type",
        "8 wrong-type",
        "9 bad-value",
        "9 bad-value",
    ]


def test_a_wrong_word_gets_the_nearest_right_one(registry):
    with pytest.raises(PlanError) as caught:
        registry("tools:\n- {pathh: a.b, path: a.b, annotations: {readOnlyHnt: true}}\n")
    assert [p.suggestion for p in caught.value.problems] == ["path", "readOnlyHint"]


def test_a_plan_is_told_from_a_registry(registry):
    (found,) = problems(registry, "steps: []\n")
    assert "belongs to a plan" in found


def test_sections_without_effect_and_empty_files_are_warnings(registry):
    codes = [w.code for w in registry("events: [{path: a.b}]\nsettings: {}\n").warnings]
    assert codes == ["empty-registry", "not-supported"]


def test_a_missing_or_an_empty_file_is_an_error(tmp_path, registry):
    assert "No such file" in problems(load_registry, tmp_path / "nowhere.yaml")[0]
    assert "empty-file" in problems(registry, "")[0]


# Importing


def test_every_path_that_cannot_be_imported_is_told_with_line_and_cause(module, registry, tmp_path):
    broken = module("import os\nraise RuntimeError('no licence server')\n")
    needy = module("import a_library_that_is_not_there\n")
    syntax = module("def broken(:\n")
    exits = module("raise SystemExit(3)\n")
    here = module("def database_create(): ...\ndef database_query(): ...\n")
    found = problems(
        build_server,
        [
            registry(f"""\
            tools:
            - path: flux_mcp_of_nobody.job.submit
            - path: hpc_mcp.no_such_room.tool
            - path: {broken}.tool
            - path: {needy}.tool
            - path: {syntax}.tool
            - path: {here}.database_creat
            - path: {exits}.tool
            - path: nodots
            """)
        ],
    )
    assert [line.partition(":")[0] for line in found] == [
        "2 not-installed",
        "3 unknown-module",
        "4 import-failed",
        "5 import-failed",
        "6 import-failed",
        "7 unknown-name",
        "8 import-failed",
        "9 bad-path",
    ]
    assert f"RuntimeError: no licence server ({tmp_path / broken}.py:2)" in found[2]
    assert "needs the module `a_library_that_is_not_there`" in found[3]
    assert "SyntaxError" in found[4]
    assert found[5].endswith("near it: `database_create`, `database_query`")


def test_packages_whose_newest_does_not_fit_are_got_by_an_extra():
    """`pip install flux-mcp` would bring one that needs another MCP library than ours."""
    project = Path(__file__).parents[2] / "pyproject.toml"
    extras = tomllib.loads(project.read_text())["project"]["optional-dependencies"]
    for module, package in (("flux_mcp", "flux-mcp"), ("hpc_mcp", "hpc-mcp")):
        extra = PACKAGES[module].removeprefix("'fractale[").removesuffix("]'")
        assert any(each.startswith(package) for each in extras[extra])


@pytest.mark.skipif(find_spec("flux") is not None, reason="flux-python is installed here")
def test_packages_that_are_known_come_with_their_name(registry):
    entries = registry("tools:\n- flux.job.submit\n").entries
    (found,) = problems(import_entry, entries[0])
    assert found.endswith("`pip install flux-python`")


def test_agents_of_0_1_0_are_replaced(registry):
    paths = (
        "fractale_agents.parsers.ResultParserAgent",
        "fractale.agents.parsers.ResultParserAgent",
    )
    for path in paths:
        (found,) = problems(import_entry, registry(f"tools:\n- path: {path}\n").entries[0])
        assert "in a run the built-in sub-agent `result_parse` takes its place" in found


async def test_an_optional_entry_is_left_out_with_a_warning(module, registry, toolbox):
    name = module("def here(): return {}\n")
    told = []
    found = registry(f"""\
        tools:
        - {{path: flux_mcp_of_nobody.job.submit, optional: true}}
        - {{path: {name}.gone, optional: true}}
        - {{path: {name}.here, optional: true}}
    """)
    async with toolbox(found, on_warning=told.append) as box:
        assert [t.name for t in await box.tools()] == ["here"]
    assert [(w.code, w.position.line) for w in told] == [("not-installed", 2), ("unknown-name", 3)]


def test_a_warning_that_nobody_takes_is_logged(registry, caplog):
    build_server([registry("tools:\n- {path: nobody.has.this, optional: true}\n")])
    assert "not-installed" in caplog.text


async def test_an_installed_module_wins_over_one_beside_the_file(tmp_path, registry):
    (tmp_path / "colorsys.py").write_text("def rgb_to_hsv(): return {'here': True}\n")
    sys.modules.pop("colorsys", None)
    found = import_entry(registry("tools: [{path: colorsys.rgb_to_hsv}]\n").entries[0])
    assert str(tmp_path) not in found.__code__.co_filename


# Functions


async def test_a_function_is_a_tool_by_its_signature_and_docstring(module, registry, toolbox):
    name = module('''
        from __future__ import annotations
        from typing import Literal

        def submit(script: str, nodes: int = 1, queue: Literal["debug", "batch"] = "batch") -> dict:
            """Submit a job.

            Args:
                script: What to run.
                nodes: How many nodes.
            """
            return {"job": script, "nodes": nodes}
    ''')
    async with toolbox(registry(f"tools: [{{path: {name}.submit}}]\n")) as box:
        (tool,) = await box.tools()
        result = await box.call_tool("submit", {"script": "a.sh", "nodes": 4})
    assert tool.description == "Submit a job."
    assert tool.input_schema["required"] == ["script"]
    assert tool.input_schema["properties"]["nodes"]["description"] == "How many nodes."
    assert tool.input_schema["properties"]["queue"]["enum"] == ["debug", "batch"]
    assert result.structured == {"job": "a.sh", "nodes": 4}


async def test_answers_keep_their_kind(module, registry, toolbox):
    name = module("""
        from typing import Any

        async def mapping() -> dict: return {"a": 1}
        def text() -> str: return "plain"
        def bare(): return '{"returncode": 0}'
        def either(as_json: bool) -> str | dict[str, Any]:
            return {"returncode": 1} if as_json else "t"
        def many() -> list[int]: return [1, 2]
        def items():
            yield "one"
            yield "two"
        def nothing() -> None: return None
    """)
    names = ("mapping", "text", "bare", "either", "many", "items", "nothing")
    listed = "".join(f"- {name}.{each}\n" for each in names)
    async with toolbox(registry(f"tools:\n{listed}")) as box:
        results = {each: await box.call_tool(each, {}) for each in names if each != "either"}
        either = await box.call_tool("either", {"as_json": True})
        as_text = await box.call_tool("either", {"as_json": False})
    assert results["mapping"].structured == {"a": 1}
    assert results["text"].text == "plain"
    assert results["bare"].text == '{"returncode": 0}'
    assert results["many"].structured == {"result": [1, 2]}
    assert results["items"].text == '["one","two"]'
    assert not any(result.is_error for result in results.values())
    assert either.structured == {"returncode": 1}
    assert (as_text.text, as_text.structured) == ("t", None)


async def test_what_a_tool_raises_is_its_error_without_a_traceback(
    module, registry, capfd, toolbox
):
    name = module("""
        import sys

        def lookup(key: str) -> dict: return {}[key]
        async def wrong() -> dict: raise ValueError("nodes must be a power of two")
        def leave() -> dict: sys.exit(3)
        def count(nodes: int) -> dict: return {}
    """)
    names = ("lookup", "wrong", "leave", "count")
    async with toolbox(registry("tools:\n" + "".join(f"- {name}.{n}\n" for n in names))) as box:
        texts = []
        for each, arguments in zip(names, ({"key": "x"}, {}, {}, {"nodes": "s3cret"}), strict=True):
            result = await box.call_tool(each, arguments)
            assert result.is_error
            texts.append(result.text)
    assert texts[:3] == [
        "KeyError: 'x'",
        "ValueError: nodes must be a power of two",
        "the function ended itself with exit code 3",
    ]
    assert texts[3].startswith("the arguments don't fit: `nodes`: ")
    assert "s3cret" not in texts[3] + "".join(capfd.readouterr())


async def test_a_hundred_slow_tools_run_at_the_same_time(toolbox):
    everybody = threading.Barrier(100, timeout=20)

    def meet() -> dict:
        """Wait for the others."""
        everybody.wait()
        return {"met": True}

    async with toolbox(functions=[meet]) as box:
        results = await asyncio.gather(*(box.call_tool("meet", {}) for _ in range(100)))
    assert all(result.structured == {"met": True} for result in results)


async def test_a_cancelled_call_does_not_wait_for_its_thread(toolbox):
    started, release = threading.Event(), threading.Event()

    def hang() -> dict:
        """Take very long."""
        started.set()
        release.wait(60)
        return {}

    async with toolbox(functions=[hang]) as box:
        call = asyncio.create_task(box.call_tool("hang", {}))
        await asyncio.to_thread(started.wait)
        call.cancel()
        await asyncio.wait([call])
        assert not release.is_set()
        assert call.cancelled()
    release.set()


async def test_hints_of_an_entry_reach_the_caller(module, registry, toolbox):
    name = module("def look() -> dict: return {}\n")
    found = registry(f"""\
        tools:
        - path: {name}.look
          name: see
          annotations: {{readOnlyHint: true, title: See, fractale.type: agent}}
    """)
    async with toolbox(found) as box:
        (tool,) = await box.tools()
    assert tool.name == "see"
    assert tool.annotations["readOnlyHint"] is True
    assert tool.is_agent


def test_what_cannot_be_a_tool_is_told_with_the_reason(module, registry):
    name = module("""
        answer = 42
        def anything(**kwargs): ...
        class Needy:
            def __init__(self, key): ...
        class Odd:
            input_schema = {"type": "nonsense"}
            async def __call__(self): ...
    """)
    entries = "".join(f"- {name}.{each}\n" for each in ("answer", "anything", "Needy", "Odd"))
    found = problems(build_server, [registry(f"tools:\n{entries}")])
    assert [line.partition(":")[0] for line in found] == [
        f"{n} unusable-entry" for n in (2, 3, 4, 5)
    ]
    assert "is int, which can't be called" in found[0]
    assert "**kwargs" in found[1]
    assert "'key'" in found[2]
    assert "nonsense" in found[3]


# Classes and sub-agents

AGENT = '''
    class Parser:
        """Reads logs."""

        name = "result_parse"
        description = "Find a metric in a log."
        input_schema = {
            "type": "object",
            "properties": {"log": {"type": "string"}},
            "required": ["log"],
            "annotations": {"fractale.type": "agent", "readOnlyHint": True},
        }
        output_schema = {
            "type": "object",
            "properties": {"value": {"type": "number"}},
            "required": ["value"],
        }

        async def __call__(self, log: str):
            return {"2": {"value": 2}, "text": '{"value": 3}'}.get(log, log)

    def helper() -> dict:
        return {}
'''


async def test_a_class_is_a_tool_with_exactly_its_schemas(module, registry, toolbox):
    name = module(AGENT)
    async with toolbox(registry(f"tools: [{{path: {name}.Parser}}]\n")) as box:
        (tool,) = await box.tools()
        assert (await box.call_tool("result_parse", {"log": "2"})).structured == {"value": 2}
        assert (await box.call_tool("result_parse", {"log": "text"})).structured == {"value": 3}
        misfit = await box.call_tool("result_parse", {"log": 2})
        broken = await box.call_tool("result_parse", {"log": "what"})
    made = getattr(sys.modules[name], "Parser")  # noqa: B009
    assert tool.input_schema == made.input_schema
    assert tool.output_schema == made.output_schema
    assert tool.description == "Find a metric in a log."
    assert tool.is_agent
    assert tool.annotations["readOnlyHint"] is True
    assert misfit.is_error
    assert misfit.text == "the arguments don't fit: $.log: 2 is not of type 'string'"
    assert broken.is_error
    assert "output_schema doesn't allow: it is str" in broken.text


async def test_a_class_without_a_schema_is_described_by_its_call(module, registry, toolbox):
    name = module("""
        class Adder:
            description = "Add."
            def __call__(self, a: int, b: int = 1) -> dict: return {"sum": a + b}
    """)
    async with toolbox(registry(f"tools: [{{path: {name}.Adder}}]\n")) as box:
        (tool,) = await box.tools()
        result = await box.call_tool("adder", {"a": 2})
    assert (tool.description, tool.input_schema["required"]) == ("Add.", ["a"])
    assert result.structured == {"sum": 3}


def test_no_function_becomes_a_sub_agent(tmp_path, module):
    name = module(AGENT)
    sys.path.append(str(tmp_path))
    paths = ["os.system", "subprocess.Popen", f"{name}.helper"]
    found = problems(build_server, [local_entries(paths)])
    assert [line.partition(":")[0].partition(" ")[2] for line in found] == ["not-an-agent"] * 3


def test_the_command_line_may_name_a_module_of_the_folder(module, tmp_path, monkeypatch):
    name = module(AGENT)
    monkeypatch.chdir(tmp_path)
    assert import_entry(local_entries([f"{name}.Parser"]).entries[0])


# Names


def test_two_entries_of_one_name_name_both_places(module, registry):
    name = module("def a() -> dict: ...\ndef b() -> dict: ...\n")
    first = registry(f"tools:\n- {{path: {name}.a, name: run}}\n", "first.yaml")
    second = registry(f"tools:\n- {name}.a\n- {{path: {name}.b, name: run}}\n", "second.yaml")
    (found,) = problems(build_server, [first, second])
    assert found.startswith("3 same-name: ")
    assert "first.yaml:2:" in found


async def test_the_same_entry_in_two_files_is_served_once(module, registry, toolbox):
    name = module("def a() -> dict: return {}\n")
    files = [registry(f"tools: [{{path: {name}.a}}]\n", f"{n}.yaml") for n in (1, 2)]
    async with toolbox(*files) as box:
        assert [t.name for t in await box.tools()] == ["a"]


# Prompts, resources, catalogs


async def test_prompts_give_text_or_messages(module, registry, toolbox):
    name = module("""
        def ask(script: str, nodes: int = 1) -> str: return f"check {script} on {nodes + 1}"
        def chat() -> dict:
            say = {"type": "text", "text": "build it"}
            return {"messages": [{"role": "user", "content": say},
                                 {"role": "assistant", "content": "how?"}]}
        def fails(): raise LookupError("no persona")
    """)
    listed = "".join(f"- {name}.{each}\n" for each in ("ask", "chat", "fails"))
    async with toolbox(registry(f"prompts:\n{listed}")) as box:
        prompts = {p.name: p for p in await box.prompts()}
        asked = await box.get_prompt("ask", {"script": "a.sh", "nodes": 2})
        chatted = await box.get_prompt("chat", {})
        with pytest.raises(ToolError, match="no persona"):
            await box.get_prompt("fails", {})
    assert [a["name"] for a in prompts["ask"].arguments if a["required"]] == ["script"]
    assert [(m.role, m.text) for m in asked] == [("user", "check a.sh on 3")]
    assert [(m.role, m.text) for m in chatted] == [("user", "build it"), ("assistant", "how?")]


def test_what_cannot_be_a_prompt_or_a_catalog_is_told(module, registry):
    name = module("""
        class Site:
            def __init__(self): raise OSError("no such site")
    """)
    text = f"prompts: [{name}.Site]\nresources: [{name}.Site]\ncatalogs: [{name}.Site]\n"
    found = problems(build_server, [registry(text)])
    assert [line.partition(":")[0] for line in found] == [f"{n} unusable-entry" for n in (1, 2, 3)]
    assert "can't be served as a prompt: TypeError: is type, not a function" in found[0]
    assert "can't be served as a catalog: OSError: no such site" in found[2]


async def test_prompts_and_resources_of_fastmcp_are_served_as_they_are(module, registry, toolbox):
    name = module("""
        from fastmcp.prompts import Message, Prompt, prompt
        from fastmcp.resources import Resource, resource

        @prompt(name="expert", description="Be one.")
        def decorated(): return [{"content": "one", "role": "user"}, "two", Message("three")]
        made = Prompt.from_function(lambda: {"no": "messages"}, name="made")
        @resource("site://queues", mime_type="application/json")
        def queues() -> list: return ["debug"]
        text = Resource.from_function(lambda: "text", uri="site://text", name="text")

        @prompt
        def asker(who: str) -> dict: return {"who": who}
    """)
    found = registry(f"""\
        prompts: [{name}.decorated, {{path: {name}.made, name: renamed}}, {name}.asker]
        resources: [{name}.queues, {name}.text]
    """)
    async with toolbox(found) as box:
        prompts = {p.name: p.description for p in await box.prompts()}
        messages = await box.get_prompt("expert", {})
        (asked,) = await box.get_prompt("asker", {"who": "Ada"})
        read = [(await box.read_resource(f"site://{each}")).text for each in ("queues", "text")]
    assert list(prompts) == ["asker", "expert", "renamed"]
    assert prompts["expert"] == "Be one."
    assert [m.text for m in messages] == ["one", "two", "three"]
    assert asked.text == '{"who":"Ada"}'
    assert read == ['["debug"]', "text"]


async def test_resources_are_read_and_templates_take_arguments(module, registry, toolbox):
    name = module("""
        def queues() -> dict: return {"queues": ["debug"]}
        def log(job: str) -> str: return f"log of {job}"
    """)
    found = registry(f"""\
        resources:
        - {name}.queues
        - {{path: {name}.log, uri: "job://{{job}}/log"}}
    """)
    async with toolbox(found) as box:
        listed = {r.uri: r.is_template for r in await box.resources()}
        assert (await box.read_resource("resource://queues")).text == '{"queues": ["debug"]}'
        assert (await box.read_resource("job://42/log")).text == "log of 42"
    assert listed == {"resource://queues": False, "job://{job}/log": True}


async def test_a_catalog_gives_its_marked_methods(module, registry, toolbox):
    name = module("""
        class Site:
            def probe(self): self.found = "debug"
            def queue(self) -> dict: return {"queue": self.found}
            def other(self) -> dict: ...
            queue.is_tool = True
    """)
    async with toolbox(registry(f"catalogs: [{{path: {name}.Site}}]\n")) as box:
        assert [t.name for t in await box.tools()] == ["queue"]
        assert (await box.call_tool("queue", {})).structured == {"queue": "debug"}


# Objects that a program hands over


async def test_functions_and_tools_of_other_libraries_are_served_too(module, registry, toolbox):
    import fastmcp.tools

    @langchain_tool
    def multiply(a: int, b: int) -> int:
        """Multiply two numbers."""
        return a * b

    @fastmcp.tools.tool(name="decorated", annotations={"readOnlyHint": True})
    def plain(word: str) -> dict:
        """Say a word."""
        return {"word": word}

    made = fastmcp.tools.Tool.from_function(lambda: {"made": True}, name="made")
    async with toolbox(functions=[multiply, plain, made]) as box:
        tools = {t.name: t for t in await box.tools()}
        product = await box.call_tool("multiply", {"a": 6, "b": 7})
        said = await box.call_tool("decorated", {"word": "hi"})
    assert set(tools) == {"multiply", "decorated", "made"}
    assert tools["multiply"].description == "Multiply two numbers."
    assert tools["decorated"].annotations["readOnlyHint"] is True
    assert product.text == "42"
    assert said.structured == {"word": "hi"}


async def test_a_tool_may_ask_fastmcp_for_its_context(module, registry, toolbox):
    name = module("""
        from fastmcp import Context

        async def steps(n: int, ctx: Context) -> dict:
            await ctx.report_progress(n, n)
            return {"n": n}
    """)
    seen = []
    async with toolbox(registry(f"tools: [{{path: {name}.steps}}]\n")) as box:
        (tool,) = await box.tools()
        await box.call_tool("steps", {"n": 2}, on_progress=lambda *found: seen.append(found))
    assert list(tool.input_schema["properties"]) == ["n"]
    assert [found[:2] for found in seen] == [(2, 2)]


async def test_hpc_mcps_tools_and_prompts_are_served(registry, toolbox):
    pytest.importorskip("hpc_mcp")
    found = registry(
        """
        tools:
          - path: hpc_mcp.build.docker.docker_build_container
            name: build_container
          - path: hpc_mcp.filesystem.filesystem_read_file
        prompts:
          - path: hpc_mcp.build.docker.docker_build_persona_prompt
            name: build_expert
          - path: hpc_mcp.job.validate.validate_jobspec_expert
        """
    )
    async with toolbox(found) as box:
        names = [t.name for t in await box.tools()]
        arguments = {"application": "lammps", "environment": "cpu"}
        (message,) = await box.get_prompt("build_expert", arguments)
        read = await box.call_tool("filesystem_read_file", {"path": "/nowhere/at/all"})
    assert names == ["build_container", "filesystem_read_file"]
    assert "lammps" in message.text
    assert read.structured["success"] is False
