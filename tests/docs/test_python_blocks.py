"""Every Python block of these pages runs, in the order of its page, in an empty directory.

A block whose first line is a comment with a file's name (``# plan.yaml``) is written to that file;
a Python file is imported as well. All other Python blocks of a page share their names. Tests in
them are called. Models of the provider `openai` are a scripted server.
"""

from __future__ import annotations

import ast
import asyncio
import importlib
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import fractale
from fractale.testing import ModelServer, Reply

ROOT = Path(__file__).parents[2]
PAGES = ("agents", "extending", "history", "langgraph", "models", "python")
BLOCK = re.compile(r"^( *)```(python|yaml|json)\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)
FILE = re.compile(r"# ([\w./-]+\.(?:py|ya?ml))\n")
TOP_LEVEL = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT

SIMPLE = 'name: p\nsteps: [{name: say, agent: ask, instruction: "Say hello."}]\n'
"""The plan of pages that show none."""


def reply(request: Any) -> Reply:
    """The answer to any request of the pages: each tool that the user names is called once."""
    messages = request.body["messages"]
    called = {c["function"]["name"] for m in messages for c in m.get("tool_calls") or ()}
    said = " ".join(str(m["content"]) for m in messages if m["role"] == "user")
    values = {"integer": 4, "number": 4.0}
    for function in [tool["function"] for tool in request.body.get("tools") or ()]:
        if function["name"] in said and function["name"] not in called:
            wanted = function["parameters"].get("properties", {})
            given = {name: values.get(spec.get("type"), "a text") for name, spec in wanted.items()}
            return Reply(tool_calls=[(function["name"], given)])
    return Reply(text="It scales.")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory to run a page in."""
    modules = set(sys.modules)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "plan.yaml").write_text(SIMPLE)
    with ModelServer(reply) as server:
        monkeypatch.setenv("OPENAI_API_KEY", "x")
        monkeypatch.setenv("OPENAI_BASE_URL", server.openai_url)
        monkeypatch.setenv("FRACTALE_LLM_MODEL", "openai:any")
        monkeypatch.setenv("FRACTALE_STATE_DIR", str(tmp_path / ".fractale"))
        yield tmp_path
    for name in set(sys.modules) - modules:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


def prepare(page: str) -> dict[str, Any]:
    """The names that a page takes as given."""
    if page == "history":
        fractale.run("plan.yaml", keep=True)
    return {}


def finish(runner: asyncio.Runner, value: Any) -> None:
    if inspect.iscoroutine(value):
        runner.run(value)


def execute(code: str, where: str, names: dict[str, Any], runner: asyncio.Runner) -> None:
    """Run a block, in an event loop only if it has `await`: others may wait themselves."""
    compiled = compile(code, where, "exec", flags=TOP_LEVEL, dont_inherit=True)
    finish(runner, eval(compiled, names))


def call_tests(names: dict[str, Any], runner: asyncio.Runner) -> None:
    """Call the tests that a block defines, those with fixtures left out: pytest runs these."""
    for name in [each for each in names if each.startswith("test_")]:
        test = names.pop(name)
        if inspect.signature(test).parameters:
            continue
        finish(runner, test())


@pytest.mark.parametrize("page", PAGES)
def test_the_python_of_a_page_runs(page, place):
    path = ROOT / "docs" / f"{page}.md"
    text = path.read_text(encoding="utf-8")
    names: dict[str, Any] = {"__name__": page, **prepare(page)}
    with asyncio.Runner() as runner:
        for block in BLOCK.finditer(text):
            line = text.count("\n", 0, block.start()) + 2
            code = inspect.cleandoc("\n" + block[3]) + "\n"
            if found := FILE.match(code):
                (place / found[1]).parent.mkdir(parents=True, exist_ok=True)
                (place / found[1]).write_text(code)
                sys.modules.pop(Path(found[1]).stem, None)  # of another test
                importlib.invalidate_caches()
            if block[2] == "python":
                try:
                    execute("\n" * (line - 1) + code, str(path), names, runner)
                    call_tests(names, runner)
                except BaseException as error:
                    error.add_note(f"docs/{page}.md:{line}")
                    raise


OTHERS = ("replay", "resume", "studio", "sweeps")
"""The blocks of these pages need a server, a run, processes or a recording, which no page makes."""


@pytest.mark.parametrize("page", OTHERS)
def test_the_python_of_other_pages_compiles_and_its_imports_are_there(page):
    text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    blocks = [block[3] for block in BLOCK.finditer(text) if block[2] == "python"]
    assert blocks
    for code in blocks:
        tree = compile(code, page, "exec", flags=TOP_LEVEL | ast.PyCF_ONLY_AST)
        imports = [each for each in tree.body if isinstance(each, (ast.Import, ast.ImportFrom))]
        exec(compile(ast.Module(imports, []), page, "exec"), {})


def test_every_page_with_python_is_named_here():
    blocks = {
        path.stem
        for path in (ROOT / "docs").glob("*.md")
        if "```python" in path.read_text(encoding="utf-8")
    }
    assert blocks == {*PAGES, *OTHERS}
