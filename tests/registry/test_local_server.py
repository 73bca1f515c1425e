"""The one server of local tools, inside a run and for others; FastMCP only if a module uses it."""

from __future__ import annotations

import dataclasses
import itertools
import subprocess
import sys
import textwrap

import pytest
from mcp.server.lowlevel import Server

from fractale.errors import FractaleError
from fractale.mcp import EmbeddedServer, McpToolbox
from fractale.registry import build_server, load_registry
from fractale.registry.schemas import inlined, untitled

COUNTER = itertools.count()
ZOO = '''
    from __future__ import annotations

    import dataclasses
    import datetime
    import enum
    import pathlib
    from typing import Annotated, Any, Literal

    from mcp.types import PromptMessage, TextContent
    from pydantic import BaseModel, ConfigDict, Field
    from typing_extensions import TypedDict

    class Color(enum.Enum):
        RED = "red"

    class Inner(BaseModel):
        """An inner thing."""
        x: int = 1
        title: str = "t"

    class Job(BaseModel):
        name: str
        inner: Inner = Field(default_factory=Inner, description="The inner one.")

    class Node(BaseModel):
        children: list[Node] = []

    class Cat(BaseModel):
        kind: Literal["cat"] = "cat"

    class Dog(BaseModel):
        kind: Literal["dog"] = "dog"

    class Aliased(BaseModel):
        model_config = ConfigDict(serialize_by_alias=False)
        code: int = Field(alias="returnCode")

    class Row(TypedDict):
        n: int

    # Arguments

    def bare(a, b=2): return {"a": a, "b": b}
    def google(a: int, b: Annotated[str, "The b."] = "x", *, c: float = 1.0) -> dict:
        """Do it.

        Args:
            a: The a,
                at length.
            c (float): The c.
        """
        return {"a": a, "b": b, "c": c}
    def numpy(a: int) -> dict:
        """Do it.

        Parameters
        ----------
        a : int
            The a.
        """
        return {}
    def sphinx(a: int) -> dict:
        """Do it.

        :param a: The a.
        """
        return {}
    def models(job: Job, color: Color = Color.RED) -> Job: return job
    def cyclic(node: Node) -> Node: return node
    def union(pet: Annotated[Cat | Dog, Field(discriminator="kind")]) -> list[Cat | Dog]:
        return [pet]
    def named(x: list[int] = [1], enum: str = "e", title: str = "t") -> dict: return {"x": x}
    def unsaid(day: datetime.date = None) -> Nowhere: return {"day": day}
    def raises(a: int) -> dict: raise ValueError("no such queue")

    # Answers

    def text() -> str: return "plain"
    def flag() -> bool: return True
    def nothing() -> None: return None
    def maybe() -> int | None: return None
    def color() -> Color: return Color.RED
    def anything() -> Any: return [1, {"a": 2}]
    def many() -> list[int]: return [1, 2]
    def none_of_many() -> list[int]: return []
    def days() -> list[datetime.date]: return [datetime.date(2020, 1, 1)]
    def mapping() -> dict[str, Inner]: return {"a": Inner()}
    def either(as_json: bool) -> str | dict: return {"r": 1} if as_json else "t"
    def row() -> Row: return {"n": 1}
    def broken_row() -> Row: return {"m": 1}
    def no_row() -> Row: return [1]
    def aliased() -> Aliased: return Aliased(returnCode=1)
    def raw() -> bytes: return b"\\xff\\xfe"
    def part() -> TextContent: return TextContent(type="text", text="c")
    def parts(): return [TextContent(type="text", text="c"), {"a": 1}, b"bytes"]
    def what(): return pathlib
    class Strange: pass
    def strange() -> Strange: return {"a": Strange}
    def no_json() -> list[int]: return [pathlib]
    async def items():
        yield 1
    class Adder:
        description = "Add."
        def __call__(self, a: int, b: int = 1) -> dict: return {"sum": a + b}
    class Parser:
        name = "parser"
        description = "Find a metric."
        input_schema = {
            "type": "object",
            "$defs": {"N": {"type": "integer"}},
            "properties": {"n": {"$ref": "#/$defs/N", "description": "The n."}},
            "annotations": {"fractale.type": "agent", "readOnlyHint": True},
        }
        output_schema = {"type": "object", "properties": {"v": {"type": "number"}}}
        async def __call__(self, n: int): return '{"v": 1}' if n else "nothing"

    # Prompts and resources

    def ask(script: str, nodes: int = 1, tags: list[str] | None = None) -> str:
        """Ask.

        Args:
            script: The script.
        """
        return f"check {script} on {nodes + 1} {tags}"
    def chat(): return ["a", {"role": "assistant", "content": {"x": 1}}]
    def said():
        content = TextContent(type="text", text="said")
        return [PromptMessage(role="user", content=content)]
    def fields(): return {"no": 1}
    def partly(n: int) -> Nowhere: return f"{n + 1}"
    def number(): return 3
    def wordless(): return [{"role": "user"}]
    def silent(): raise LookupError("no persona")
    def queues() -> dict: return {"queues": ["debug"]}
    def motd() -> str: return "hello"
    def image() -> bytes: return b"\\x00\\x01"
    def nonsense(): return object()
    def gone(): raise OSError("gone")
    def log(job: str) -> str: return f"log of {job}"
    def page(job: int, n: int = 1, all_of: bool = False) -> dict: return [job, n, all_of]
    def tree(path: str) -> str: return path
'''
CALLS = [
    ("bare", {"a": 1}),
    ("bare", {}),
    ("google", {"a": "3"}),
    ("google", {"a": "s3cret", "c": "s3cret"}),
    ("google", {"a": 1, "other": 2}),
    ("numpy", {"a": 1}),
    ("sphinx", {"a": 1}),
    ("models", {"job": {"name": "n", "inner": {"x": "5"}}}),
    ("models", {"job": {"inner": 3}, "color": "green"}),
    ("cyclic", {"node": {"children": [{}]}}),
    ("union", {"pet": {"kind": "cat"}}),
    ("union", {"pet": {}}),
    ("named", {}),
    ("raises", {"a": 1}),
    ("unsaid", {"day": "2020-01-01"}),
    *[
        (name, {})
        for name in [
            "text",
            "flag",
            "nothing",
            "maybe",
            "color",
            "anything",
            "many",
            "none_of_many",
        ]
    ],
    *[
        (name, {})
        for name in [
            "days",
            "mapping",
            "row",
            "broken_row",
            "no_row",
            "aliased",
            "raw",
            "part",
            "parts",
        ]
    ],
    *[(name, {}) for name in ["what", "no_json", "items"]],
    ("either", {"as_json": True}),
    ("either", {"as_json": "no"}),
    ("adder", {"a": 1}),
    ("parser", {"n": 1}),
    ("parser", {"n": 0}),
    ("parser", {"n": "q"}),
]
TOOLS = sorted({{"adder": "Adder", "parser": "Parser"}.get(name, name) for name, _ in CALLS})
PROMPTS = [
    ("ask", {"script": "a.sh", "nodes": "3", "tags": '["x"]'}),
    ("ask", {"script": "a.sh", "nodes": "many"}),
    ("partly", {"n": "2"}),
    *[(name, {}) for name in ["chat", "said", "fields", "number", "wordless", "silent"]],
]
URIS = [
    *[f"resource://{name}" for name in ["queues", "motd", "image", "nonsense", "gone"]],
    "job://a%20b/log",
    "job://4/page?n=2&all-of=yes",
    "job://4/page",
    "job://x/page",
    "tree://a/b/c",
]


@pytest.fixture(autouse=True)
def own_import_path(monkeypatch):
    """What a test makes importable is gone after it."""
    monkeypatch.setattr(sys, "path", [*sys.path])


@pytest.fixture
def registry(tmp_path):
    """Write a module and a registry of it, where `M` is the module's name."""

    def write(code: str, text: str):
        name = f"local_server_module_{next(COUNTER)}"
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(code))
        (tmp_path / "tools.yaml").write_text(textwrap.dedent(text).replace("M.", f"{name}."))
        return load_registry(tmp_path / "tools.yaml")

    return write


@pytest.fixture
def zoo(registry):
    """A registry of a module, with an entry of each kind."""
    prompts = sorted({name for name, _ in PROMPTS})
    text = (
        "tools:\n"
        + "".join(f"- M.{name}\n" for name in TOOLS)
        + "- path: M.text\n  name: hinted\n"
        + "  annotations: {readOnlyHint: true, title: See, fractale.type: agent}\n"
        + "prompts:\n"
        + "".join(f"- M.{name}\n" for name in prompts)
        + "resources:\n"
        + "".join(f"- M.{name}\n" for name in ["queues", "motd", "image", "nonsense", "gone"])
        + '- {path: M.log, uri: "job://{job}/log"}\n'
        + '- {path: M.page, uri: "job://{job}/page{?n,all-of}"}\n'
        + '- {path: M.tree, uri: "tree://{path*}"}\n'
    )
    return lambda code: registry(code, text)


def toolbox(server) -> McpToolbox:
    return McpToolbox([EmbeddedServer(server=server)])


async def seen(server) -> dict:
    """All that a run sees of a server and its answers."""
    async with toolbox(server) as box:
        found = {f"tool {each.name}": dataclasses.asdict(each) for each in await box.tools()}
        found |= {f"prompt {each.name}": dataclasses.asdict(each) for each in await box.prompts()}
        found |= {f"listed {each.uri}": dataclasses.asdict(each) for each in await box.resources()}
        for name, arguments in CALLS:
            answer = await box.call_tool(name, arguments)
            found[f"call {name} {arguments}"] = dataclasses.asdict(answer)
        for name, arguments in PROMPTS:
            found[f"ask {name} {arguments}"] = await of(box.get_prompt(name, arguments))
        for uri in URIS:
            found[f"read {uri}"] = await of(contents(box.read_resource(uri)))
    return found


async def contents(answer):
    """What a resource contains: its text, or its bytes as base64."""
    read = await answer
    return read.text or read.content[0]["resource"]["blob"]


async def of(answer):
    try:
        return await answer
    except FractaleError as error:
        return f"refused: {error}"


async def test_a_module_that_uses_fastmcp_is_served_alike(zoo, capfd):
    plain, within = zoo(ZOO), zoo(f"{ZOO}\n    import fastmcp\n")
    mine, theirs = await seen(build_server([plain])), await seen(build_server([within]))
    assert mine.keys() == theirs.keys()
    for what, expected in theirs.items():
        assert mine[what] == expected, what
    assert "s3cret" not in str(mine["call google {'a': 's3cret', 'c': 's3cret'}"])
    assert "s3cret" not in "".join(capfd.readouterr())


async def test_schemas_and_answers_are_what_they_should_be(zoo):
    found = await seen(build_server([zoo(ZOO)]))
    for style, about in (
        ("google", "The a,\nat length."),
        ("numpy", "The a."),
        ("sphinx", "The a."),
    ):
        tool = found[f"tool {style}"]
        assert tool["description"] == "Do it."
        assert tool["input_schema"]["properties"]["a"] == {"type": "integer", "description": about}
    assert found["tool google"]["input_schema"]["properties"]["b"]["description"] == "The b."
    inner = found["tool models"]["input_schema"]["properties"]["job"]["properties"]["inner"]
    assert inner["description"] == "The inner one."
    assert inner["properties"]["title"] == {"type": "string", "default": "t"}
    assert "$defs" not in str(found["tool models"])
    assert found["tool cyclic"]["output_schema"]["type"] == "object"
    assert found["tool cyclic"]["output_schema"]["$defs"]
    pets = found["tool union"]["input_schema"]["properties"]["pet"]
    assert [pet["required"] for pet in pets["oneOf"]] == [["kind"], ["kind"]]
    assert found["tool hinted"]["annotations"] == {
        "readOnlyHint": True,
        "title": "See",
        "fractale.type": "agent",
    }
    structured = {
        name: found[f"call {name} {{}}"]["structured"]
        for name in ("text", "many", "none_of_many", "row", "aliased", "maybe", "raw", "part")
    }
    assert structured == {
        "text": {"result": "plain"},
        "many": {"result": [1, 2]},
        "none_of_many": {"result": []},
        "row": {"n": 1},
        "aliased": {"code": 1},
        "maybe": {"result": None},
        "raw": None,
        "part": None,
    }
    assert found["call parts {}"]["text"] == 'c\n{"a":1}\nbytes'
    wrong = [found[f"call {name} {{}}"] for name in ("broken_row", "no_row", "no_json")]
    assert all(each["is_error"] for each in wrong)
    assert "what its output_schema doesn't allow: it is list" in wrong[1]["text"]
    assert [each.text for each in found["ask partly {'n': '2'}"]] == ["3"]
    assert found["read resource://image"] == "AAE="
    assert found["read job://4/page?n=2&all-of=yes"] == "[4, 2, true]"
    assert found["read job://a%20b/log"] == "log of a b"
    assert found["read tree://a/b/c"] == "a/b/c"
    assert found["read job://x/page"].endswith(
        "refused: the arguments don't fit: `job`: Input should be a valid integer, "
        "unable to parse string as an integer"
    )


async def test_names_that_a_server_does_not_have_are_refused_by_it(registry):
    import mcp.types as types
    from mcp.shared.exceptions import McpError
    from mcp.shared.memory import create_connected_server_and_client_session

    server = build_server([registry("def one() -> dict: return {}", "tools: [M.one]\n")])
    async with create_connected_server_and_client_session(server) as session:
        answer = await session.call_tool("two", {})
        with pytest.raises(McpError, match="Unknown prompt: 'two'"):
            await session.get_prompt("two")
        with pytest.raises(McpError, match="Resource not found"):
            await session.read_resource(types.AnyUrl("resource://two"))
    assert (answer.isError, answer.content[0].text) == (True, "Unknown tool: 'two'")


async def test_a_function_reports_progress_by_a_parameter_that_no_client_sees(registry):
    found = registry(
        """
        from fractale.registry.calls import Progress

        async def steps(n: int, progress: Progress, first: int = 1) -> dict:
            for done in range(first, n + 1):
                await progress.report_progress(done, n, f"step {done}")
            return {"n": n}
        """,
        "tools: [M.steps]\n",
    )
    reported = []
    async with toolbox(build_server([found])) as box:
        (tool,) = await box.tools()
        arguments = {"n": 2, "first": 1}
        await box.call_tool("steps", arguments, on_progress=lambda *each: reported.append(each))
        silent = await box.call_tool("steps", {"n": 1})
        refused = await box.call_tool("steps", {"n": 1, "progress": None})
    assert list(tool.input_schema["properties"]) == ["n", "first"]
    assert reported == [(1, 2, "step 1"), (2, 2, "step 2")]
    assert silent.structured == {"n": 1}
    assert refused.text.startswith("the arguments don't fit: `progress`: ")


# What needs FastMCP


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("from fastmcp.tools import Tool\ntool = Tool.from_function(lambda: 1, name='t')", "tools"),
        ("from fastmcp.tools import tool as t\n@t\ndef tool() -> dict: return {}", "tools"),
        ("from fastmcp import Context\ndef tool(ctx: Context) -> dict: return {}", "tools"),
        ("import fastmcp\ndef tool() -> dict: return {}", "tools"),
        ("from fastmcp.prompts import prompt\n@prompt\ndef tool() -> str: return ''", "prompts"),
    ],
)
async def test_objects_of_fastmcp_and_modules_that_use_it_are_served_by_the_same_server(
    registry, code, text
):
    server = build_server([registry(code, f"{text}: [M.tool]\n")])
    assert type(server) is Server
    async with toolbox(server) as box:
        listed = await (box.tools() if text == "tools" else box.prompts())
    assert [each.name for each in listed] in (["tool"], ["t"])


async def test_a_function_may_ask_for_the_server_that_runs_it(registry):
    found = registry(
        """
        from fastmcp.server.dependencies import CurrentContext, get_context

        def asks() -> dict: return {"server": get_context().fastmcp.name}
        async def given(context=CurrentContext()) -> dict:
            return {"server": context.fastmcp.name}
        """,
        "tools: [M.asks, M.given]\n",
    )
    async with toolbox(build_server([found], name="mine")) as box:
        assert (await box.call_tool("asks", {})).structured == {"server": "mine"}
        assert (await box.call_tool("given", {})).structured == {"server": "mine"}


async def test_what_functions_answer_in_fastmcps_types_is_understood(registry):
    found = registry(
        """
        from fastmcp.exceptions import ToolError
        from fastmcp.prompts import Message, PromptResult
        from fastmcp.resources import ResourceContent, ResourceResult
        from fastmcp.tools import ToolResult
        from fastmcp.utilities.types import Image

        def result(): return ToolResult("words", {"returncode": 1}, is_error=True)
        def pictures(): return [Image(data=b"x", format="png"), "a picture"]
        def either(good: bool) -> ToolResult | str: return ToolResult("r") if good else "s"
        def fails(): raise ToolError("no such queue")
        def expert(): return PromptResult([Message("be one", "assistant")])
        def queues(): return ResourceResult([ResourceContent("debug")])
        """,
        "tools: [M.result, M.pictures, M.either, M.fails]\nprompts: [M.expert]\n"
        "resources: [M.queues]\n",
    )
    async with toolbox(build_server([found])) as box:
        result = await box.call_tool("result", {})
        pictures = await box.call_tool("pictures", {})
        either = await box.call_tool("either", {"good": True})
        misfit = await box.call_tool("either", {"good": "s3cret"})
        fails = await box.call_tool("fails", {})
        (message,) = await box.get_prompt("expert", {})
        read = await box.read_resource("resource://queues")
    assert (result.text, result.structured, result.is_error) == ("words", {"returncode": 1}, True)
    assert [part["type"] for part in pictures.content] == ["image", "text"]
    assert (either.text, either.structured) == ("r", None)
    assert misfit.text.startswith("the arguments don't fit: `good`: ")
    assert "s3cret" not in misfit.text
    assert (fails.is_error, fails.text) == (True, "no such queue")
    assert (message.role, message.text) == ("assistant", "be one")
    assert read.text == "debug"


async def test_what_fastmcp_decorated_is_called_as_the_rest_is(registry):
    found = registry(
        """
        from typing import Annotated
        from fastmcp.dependencies import Depends
        from fastmcp.prompts import Message, PromptResult, prompt
        from fastmcp.resources import ResourceContent, ResourceResult, resource
        from fastmcp.tools import tool

        def queue(): return "debug"

        @tool
        def either(as_json: bool) -> str | dict: return {"r": 1} if as_json else "t"
        async def depends(queue=Depends(queue)) -> dict: return {"queue": queue}
        @prompt
        def expert(field: str): return PromptResult([Message(f"be one of {field}")])
        @prompt
        def fails(field: str): raise LookupError("no persona")
        @resource("site://queues")
        def queues(): return ResourceResult([ResourceContent("debug")])
        @resource("site://{name}/motd")
        def motd(name: str) -> str: return f"hello from {name}"
        """,
        "tools: [M.either, M.depends]\nprompts: [M.expert, M.fails]\n"
        "resources: [M.queues, M.motd]\n",
    )
    async with toolbox(build_server([found])) as box:
        assert (await box.call_tool("either", {"as_json": True})).structured == {"r": 1}
        assert (await box.call_tool("either", {"as_json": False})).structured is None
        assert (await box.call_tool("depends", {})).structured == {"queue": "debug"}
        (message,) = await box.get_prompt("expert", {"field": "flux"})
        with pytest.raises(FractaleError, match="LookupError: no persona"):
            await box.get_prompt("fails", {"field": "flux"})
        assert (await box.read_resource("site://queues")).text == "debug"
        assert (await box.read_resource("site://a/motd")).text == "hello from a"
    assert message.text == "be one of flux"


def test_a_fastmcp_object_in_the_wrong_section_is_told(registry):
    code = "from fastmcp.prompts import Prompt\np = Prompt.from_function(lambda: '', name='p')"
    with pytest.raises(FractaleError, match="is a FunctionPrompt of FastMCP, not a tool"):
        build_server([registry(code, "tools: [M.p]\n")])


def test_a_run_with_tools_of_its_own_does_not_import_fastmcp(tmp_path):
    (tmp_path / "tools.py").write_text("def echo(n: int = 0) -> dict: return {'returncode': n}\n")
    (tmp_path / "tools.yaml").write_text("tools: [tools.echo]\n")
    (tmp_path / "plan.yaml").write_text("name: one\nsteps: [{name: s, type: tool, tool: echo}]\n")
    code = (
        "import sys\n"
        "from fractale.cli import run_command\n"
        "code = run_command(['run', 'plan.yaml', '--quiet', '-r', 'tools.yaml'])\n"
        "print(code, 'mcp' in sys.modules, 'fastmcp' in sys.modules)\n"
    )
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1] == "0 True False", done.stderr


# What can't be served


def test_what_no_server_can_offer_is_told(registry):
    found = registry(
        """
        from __future__ import annotations
        def stars(*names) -> dict: ...
        def lost(where: Nowhere) -> dict: ...
        odd = lambda: {}
        def page(job: str) -> str: ...
        def needs(job: str, n: int) -> str: ...
        """,
        """\
        tools: [M.stars, M.lost, M.odd]
        resources:
        - {path: M.page, uri: "job://{other}"}
        - {path: M.needs, uri: "job://{job}{?n}"}
        - {path: M.page, uri: "job://{job}/{job}", name: twice}
        """,
    )
    with pytest.raises(FractaleError) as caught:
        build_server([found])
    told = [problem.message.partition(": ")[2] for problem in caught.value.problems]
    assert told[:-1] == [
        "ValueError: functions with *args can't be tools",
        "NameError: name 'Nowhere' is not defined",
        "ValueError: is a lambda: give it a `name`",
        "ValueError: the function takes no `other`, which is in `job://{other}`",
        "ValueError: `job://{job}{?n}` must have `n` in its path: it has no default",
    ]
    assert told[-1].startswith("ValueError: `job://{job}/{job}` is not a valid template: ")


# Schemas


def test_references_are_replaced_where_they_can_be():
    deep = {"$defs": {"A": {"$ref": "#/$defs/B"}, "B": {"type": "string"}}}
    assert inlined({**deep, "items": [{"$ref": "#/$defs/A", "default": "x"}]}) == {
        "items": [{"type": "string", "default": "x"}]
    }
    for reference in ("#/$defs/Gone", "#/properties/a", "https://schemas.example/a"):
        schema = {"$defs": {}, "type": "object", "items": {"$ref": reference}}
        assert inlined(schema) == schema
    assert inlined({"$defs": {}, "$ref": "#/$defs/Gone"}) == {"$defs": {}, "$ref": "#/$defs/Gone"}


def test_a_schema_that_would_grow_without_bound_keeps_its_references():
    doubled = {f"D{n}": {"allOf": [{"$ref": f"#/$defs/D{n + 1}"}] * 2} for n in range(30)}
    schema = {"$defs": {**doubled, "D30": {}}, "type": "object", "items": {"$ref": "#/$defs/D0"}}
    assert inlined(schema) == schema


def test_only_titles_of_schemas_are_left_out():
    schema = {
        "title": "T",
        "properties": {"title": {"title": "Title", "type": "string"}},
        "anyOf": [{"title": "A"}, True],
        "additionalProperties": {"title": "B", "default": {"title": "kept"}},
        "x-form": {"title": "kept"},
    }
    assert untitled(schema) == {
        "properties": {"title": {"type": "string"}},
        "anyOf": [{}, True],
        "additionalProperties": {"default": {"title": "kept"}},
        "x-form": {"title": "kept"},
    }
