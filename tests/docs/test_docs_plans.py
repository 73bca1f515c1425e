"""Every complete plan in the documentation runs with what ships: it is valid, and names real tools.

A fenced block of YAML with `name` and `steps` is a complete plan; any other is a fragment. A block
that begins with a file's name calls tools of its page: `test_python_blocks.py` runs it.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from fractale.errors import PlanError
from fractale.plan.build import parse_plan
from fractale.plan.check import plan_problems
from fractale.registry import build_server, load_registry
from fractale.runs.preflight import check_online
from fractale.runs.workspace import Extensions, Workspace
from fractale.settings import Settings

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^( *)```ya?ml\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def is_plan(text: str) -> bool:
    try:
        found: Any = yaml.safe_load(text)
    except yaml.YAMLError:
        return False
    return isinstance(found, dict) and {"name", "steps"} <= set(found)


def plans() -> dict[str, str]:
    """`page:line` → the text of each complete plan in the documentation."""
    found: dict[str, str] = {}
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for block in BLOCK.finditer(text):
            if is_plan(block[2]) and not re.match(r"# \S+\.yaml\n", block[2]):
                line = text.count("\n", 0, block.start())
                found[f"{page.relative_to(ROOT)}:{line + 2}"] = block[2]
    return found


def usable(registry: Path) -> bool:
    """Whether what a registry lists is installed; some of it is an extra."""
    try:
        build_server([load_registry(registry)])
    except PlanError:
        return False
    return True


REGISTRIES = [path for path in sorted((ROOT / "registries").glob("*.yaml")) if usable(path)]
PLANS = plans()


def test_the_documentation_has_complete_plans():
    assert len(PLANS) >= 3
    assert {path.name for path in REGISTRIES} >= {"demo.yaml", "jobs.yaml", "lammps.yaml"}


@pytest.mark.parametrize("where", PLANS)
async def test_a_plan_of_the_documentation_runs_with_what_ships(where):
    plan, problems = plan_problems(lambda: parse_plan(PLANS[where], where))
    assert plan is not None
    settings = replace(Settings(), servers={})
    async with Workspace.open(settings, plan, Extensions(registries=REGISTRIES)) as workspace:
        problems += await check_online(plan, workspace.toolbox, workspace.agents)
    assert [str(problem) for problem in problems] == []
