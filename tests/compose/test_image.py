"""The image of LangGraph's server with a plan: what ``langgraph dockerfile`` writes is carried out.

Its base image is not needed: its commands run in a virtual environment.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

PROJECT = """
[project]
name = "mine"
version = "0.1"
dependencies = ["fractale"]
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"
[tool.setuptools]
packages = ["mine"]
[tool.setuptools.package-data]
mine = ["*.yaml"]
"""
PLAN = """
name: chain
servers: []
inputs: {nodes: {type: integer, default: 3}}
outputs: {nodes: "{{ steps.a.outputs.n }}"}
steps: [{name: a, tool: count, inputs: {n: "{{ inputs.nodes }}"}}]
"""
GRAPHS = '''
from pathlib import Path

import fractale


def count(n: int) -> dict:
    """Add one."""
    return {"n": n + 1}


chain = fractale.plan_graph(Path(__file__).with_name("chain.yaml"), tools=[count])
'''
LOAD = """
import importlib.util, json, sys
import mine
path, _, name = json.loads(sys.argv[1])["chain"].rpartition(":")
spec = importlib.util.spec_from_file_location("graphs", path)
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
graph = getattr(module, name)
assert graph.get_context_jsonschema()
print(json.dumps([graph.get_input_jsonschema(), graph.invoke({"nodes": 4}), mine.__file__]))
"""


def test_the_generated_image_installs_the_project_and_serves_its_plan(tmp_path):
    pytest.importorskip("langgraph_cli")
    project, deps, site = tmp_path / "project", tmp_path / "deps", tmp_path / "venv"
    (project / "mine").mkdir(parents=True)
    (project / "pyproject.toml").write_text(PROJECT)
    (project / "mine" / "__init__.py").touch()
    (project / "mine" / "chain.yaml").write_text(PLAN)
    (project / "mine" / "graphs.py").write_text(GRAPHS)
    config = {"dependencies": ["."], "graphs": {"chain": "./mine/graphs.py:chain"}}
    (project / "langgraph.json").write_text(json.dumps(config))
    cli = [sys.executable, "-m", "langgraph_cli", "dockerfile", "Dockerfile"]
    subprocess.run(cli, cwd=project, check=True, capture_output=True)
    text = (project / "Dockerfile").read_text()

    (target,) = re.findall(r"^ADD \. /deps/(\S+)$", text, re.MULTILINE)
    shutil.copytree(project, deps / target)
    venv.create(site, with_pip=True)
    python = site / "bin" / "python"
    (packages,) = site.glob("lib/python*/site-packages")
    (packages / "theirs.pth").write_text(
        "\n".join(path for path in sys.path if path and path.isprintable())
    )
    (install,) = re.findall(r"^RUN (for dep in .*)$", text, re.MULTILINE)
    uv = "uv pip install --system --no-cache-dir -c /api/constraints.txt"
    assert uv in install
    here = f"{python} -m pip install --quiet --no-deps --no-build-isolation"
    script = install.replace(uv, here).replace("/deps/", f"{deps}/")
    ended = subprocess.run(["sh", "-ec", script], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr

    (graphs,) = re.findall(r"^ENV LANGSERVE_GRAPHS='(.*)'$", text, re.MULTILINE)
    command = [str(python), "-c", LOAD, graphs.replace("/deps/", f"{deps}/")]
    env = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    ended = subprocess.run(command, cwd="/", env=env, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    schema, after, home = json.loads(ended.stdout)
    assert schema["properties"]["nodes"]["default"] == 3
    assert after == {"status": "success", "outputs": {"nodes": 5}, "error": None}
    assert Path(home).is_relative_to(deps)
