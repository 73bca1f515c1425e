"""The keys of canonical steps, and the code that is part of them.

If `test_canonical_keys_and_results_are_those_of_this_version` fails, a step means something else
than before. If an earlier result would now be wrong, raise the number of its kind in `SEMANTICS`;
then write the new hashes here.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from fractale.code_files import (
    UnknownCode,
    check_unchanged_since,
    code_of_object,
    program_code,
    python_code,
)
from fractale.graph.reuse_key import SEMANTICS
from fractale.plan.kinds import KINDS
from fractale.settings.environment import lasting
from fractale.settings.servers import parse_server
from fractale.store.cache import CacheStore
from fractale.testing import FakeToolServer, ScriptedModel

CANONICAL = {
    "tool": "tool: t\n    inputs: {a: 1, b: [x, {c: 2.5}], d: null, e: true}\n    cache: true",
    "tool with a scalar": "tool: scalar\n    cache: true",
    "tool with text": "tool: text\n    cache: true",
    "agent": "agent: ask\n    instruction: Say it.\n    allow_tools: false\n    cache: true",
    "prompt": "prompt: p\n    allow_tools: false\n    cache: true",
    "judge": "tool: text\n    judge: Is it?\n    cache: true",
}

KNOWN = {
    "tool": "d17b9e0ded3e c9a3e726ebaa",
    "tool with a scalar": "9c71053d2c87 f7f3374b6ef6",
    "tool with text": "7e3d525f38f4 5a23f20791d6",
    "agent": "fe5d917e463c 247e088425e3",
    "prompt": "6352fa2c3016 247e088425e3",
    "judge": "8b17ff82c743 fa7774ca7e85",
}
"""Step → hashes of the parts of its key, without fractale's version, and of what is kept."""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _canonical_tools() -> FakeToolServer:
    tools = FakeToolServer().answer("t", {"n": 1, "warnings": ["w"]})
    tools.answer("scalar", 7).answer("text", 'so:\n{"n": 2}')
    return tools.prompt("p", "Tell a joke.")


async def test_canonical_keys_and_results_are_those_of_this_version(run_plan, settings, folder):
    found = {}
    for name, step in CANONICAL.items():
        state = replace(settings, state_dir=folder / name.replace(" ", "-"))
        (state.state_dir / "cache").mkdir(parents=True)
        (state.state_dir / "cache" / "secret").write_bytes(b"k" * 32)
        model = ScriptedModel(['{"reason": "so", "success": true}'])
        plan = f"name: p\nsteps:\n  - name: a\n    {step}"
        await run_plan(plan, tools=_canonical_tools(), model=model, settings=state)
        (file,) = (state.state_dir / "cache").glob("*/*.json")
        entry = json.loads(file.read_text())["entry"]
        parts = {k: v for k, v in entry["parts"].items() if k != "version"}
        found[name] = f"{_hash(parts)} {_hash(entry['result'])}"
    assert found == KNOWN, f"see the docstring of this file; now they are {found}"
    assert set(SEMANTICS) <= set(KINDS)
    assert set(SEMANTICS.values()) == {1}


def _hash(value) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]


async def test_another_version_of_what_a_kind_means_is_another_key(run_plan, settings, folder):
    del folder
    tools = _canonical_tools()
    plan = "name: p\nsteps: [{name: a, tool: t, cache: true}]"
    await run_plan(plan, tools=tools)
    (file,) = (settings.state_dir / "cache").glob("*/*.json")
    store = CacheStore(settings.state_dir)
    kind = json.loads(file.read_text())["entry"]["parts"]["kind"]
    assert kind == store.hash_of(["tool", SEMANTICS["tool"]])
    assert kind != store.hash_of(["tool", SEMANTICS["tool"] + 1])


# -- the code of tools ------------------------------


def _project(folder: Path) -> Path:
    files = {
        "pkg/__init__.py": "from pkg import first\n",
        "pkg/first.py": "import json\n",
        "pkg/tool.py": "from . import near\nfrom .sub import deep\nimport beside\n",
        "pkg/near.py": "",
        "pkg/sub/__init__.py": "",
        "pkg/sub/deep.py": "def f():\n    from pkg.lazy import g\n",
        "pkg/lazy.py": "import importlib\nimportlib.import_module('named')\n",
        "pkg/other.py": "",
        "named.py": "",
        "beside.py": "import yaml, not_there\n",
    }
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder / "pkg" / "tool.py"


def test_code_is_the_file_with_everything_of_its_project_that_it_imports(tmp_path):
    tool = _project(tmp_path)
    site = Path(json.__file__).parent.parent
    found = python_code(tool, [tmp_path, *map(Path, sys.path), site])
    names = {str(Path(each).relative_to(tmp_path)) for each in found.files}
    assert names == {
        *("pkg/__init__.py", "pkg/first.py", "pkg/tool.py", "pkg/near.py", "pkg/lazy.py"),
        *("pkg/sub/__init__.py", "pkg/sub/deep.py", "named.py", "beside.py"),
    }
    assert found.packages["yaml"] not in ("", "not found")
    assert found.packages["not_there"] == "not found"
    before = found.as_dict()
    (tmp_path / "pkg" / "lazy.py").write_text("x = 1\n")
    assert python_code(tool, [tmp_path]).as_dict() != before


def test_code_that_names_a_module_only_when_it_runs_is_unknown(tmp_path):
    (tmp_path / "t.py").write_text("import importlib\nimportlib.import_module(input())\n")
    with pytest.raises(UnknownCode, match="name is computed"):
        python_code(tmp_path / "t.py", [tmp_path])


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["{python}", "-m", "pkg.tool"], "pkg/tool.py"),
        (["{python}", "-X", "dev", "-mbeside"], "beside.py"),
        (["{python}", "pkg/tool.py", "--x"], "pkg/tool.py"),
        (["{python}", "-c", "import beside"], "beside.py"),
        (["./script"], "script"),
        (["./env-script"], "beside.py"),
        (["npx", "server"], "`npx` was not found|starts code that fractale cannot find"),
        (["sh", "start.sh"], "`sh` starts code that fractale cannot find"),
        (["./shell"], "is a script, and may start any program"),
        (["no-such-program"], "the program `no-such-program` was not found"),
        (["{python}", "-m", "nope"], "the module `nope` was not found"),
        (["{python}"], "started without a program"),
    ],
)
def test_the_code_of_a_server_is_found_without_starting_it(tmp_path, words, expected):
    _project(tmp_path)
    for name, head in (
        ("script", sys.executable),
        ("env-script", "/usr/bin/env python3"),
        ("shell", "/bin/bash"),
    ):
        (tmp_path / name).write_text(f"#!{head}\nimport beside\n")
        (tmp_path / name).chmod(0o755)
    command, *args = (word.replace("{python}", sys.executable) for word in words)
    environment = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"}
    try:
        said = str(sorted(program_code(command, args, environment, tmp_path).files))
    except UnknownCode as unknown:
        said = str(unknown)
    assert re.search(expected, said), said
    assert not (tmp_path / "__pycache__").exists()  # nothing was imported


def test_a_file_that_was_changed_after_the_start_is_no_evidence(tmp_path):
    (tmp_path / "a.py").write_text("")
    files = {str(tmp_path / "a.py"): "sum"}
    check_unchanged_since(files, time.time() + 60)
    with pytest.raises(UnknownCode, match="after the server had been started"):
        check_unchanged_since(files, time.time() - 60)


def _adds(number):
    def add(n: int) -> int:
        return n + number

    return add


def test_the_values_that_a_function_has_from_around_it_are_part_of_its_code():
    one, same, two = (code_of_object(_adds(n), None).as_dict() for n in (1, 1, 2))
    assert one == same
    assert one != two
    with pytest.raises(UnknownCode, match="of the code around it"):
        code_of_object(_adds([1]), None)


def test_an_object_with_a_state_is_unknown():
    class Counter:
        def count(self) -> int:
            return 1

    with pytest.raises(UnknownCode, match="state of its own"):
        code_of_object(Counter().count, None)


def test_variables_that_the_settings_name_count_and_those_of_a_login_do_not():
    environment = {"PATH": "/bin", "TERM": "vt100", "SLURM_JOB_ID": "7", "OMP_NUM_THREADS": "4"}
    entry = {"command": "x", "env": {"TERM": "dumb", "MODE": "fast"}}
    server = parse_server("s", entry, environment, "settings")
    assert server.named == ("MODE", "TERM")
    assert lasting(server.env, server.named) == {
        "PATH": "/bin", "TERM": "dumb", "OMP_NUM_THREADS": "4", "MODE": "fast",
    }  # fmt: skip


# -- real servers ------------------------------

SERVER = """
import sys
from mcp.server.fastmcp import FastMCP
from mcp.types import ToolAnnotations
import helper
server = FastMCP("sizes")

@server.tool(annotations=ToolAnnotations(readOnlyHint=True, openWorldHint=False))
def size(path: str) -> dict:
    return {"n": len(open(path).read()) + helper.EXTRA}

server.run()
"""


@pytest.mark.real
async def test_a_started_server_is_asked_again_if_its_code_or_its_settings_changed(
    run_plan, settings, folder
):
    (folder / "server.py").write_text(SERVER)
    (folder / "helper.py").write_text("EXTRA = 0\n")
    (folder / "in.dat").write_text("abc")
    plan = """
    name: p
    steps: [{name: a, tool: size, inputs: {path: in.dat}}]
    outputs: {n: "{{ steps.a.outputs.n }}"}
    """

    async def run(**env):
        entry = {"command": sys.executable, "args": ["server.py"], "env": env}
        server = parse_server("s", entry, {"PATH": "/usr/bin:/bin"}, "settings")
        done = await run_plan(
            plan, settings=replace(settings, servers={"s": server}), reuse=True, keep=False
        )
        assert done.status == "success", done.result.error
        return done.outputs["n"], bool(done.of("step_finished")[0].get("reused"))

    assert [await run(), await run()] == [(3, False), (3, True)]
    assert await run(MODE="fast") == (3, False)
    (folder / "helper.py").write_text("EXTRA = 1\n")
    assert [await run(), await run()] == [(4, False), (4, True)]
    (folder / "in.dat").write_text("abcd")
    assert await run() == (5, False)
