"""Every plan of the project is a graph for Studio: in `langgraph.json` and in `graphs/plans.py`."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from fractale.plan.build import load_plan
from fractale.plan.model import Plan, Step
from fractale.registry import load_registry

HERE = Path(__file__).parents[2]
FILE = "./graphs/plans.py"
PLANS = sorted((HERE / "plans").glob("*.yaml"))


def steps_of(plan: Plan) -> Iterator[Step]:
    """The steps of a plan, also of those that it includes."""
    for step in plan.walk():
        yield step
        if step.plan:
            yield from steps_of(step.plan)


def module():
    spec = importlib.util.spec_from_file_location("of_plans", HERE / FILE)
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def test_every_plan_has_its_graph_and_every_graph_its_plan():
    graphs = json.loads((HERE / "langgraph.json").read_text())["graphs"]
    served = {place for place in graphs.values() if isinstance(place, str)}
    names = [path.stem.replace("-", "_") for path in PLANS]
    assert served == {f"{FILE}:{name}" for name in names}, "langgraph.json and plans/ differ"
    assert all(graphs[name] == f"{FILE}:{name}" for name in names)
    assert set(names) <= vars(module()).keys()


@pytest.mark.parametrize("path", PLANS, ids=lambda path: path.stem)
def test_the_tools_of_a_plan_are_in_the_registry_that_its_graph_has(path):
    wanted = {step.target for step in steps_of(load_plan(path)) if step.kind == "tool"}
    registry = module().NEEDED.get(path.stem)
    there: set[str] = set()
    if registry:
        entries = load_registry(HERE / "registries" / f"{registry}.yaml").entries
        there = {entry.path.rpartition(".")[2] for entry in entries}
    assert wanted <= there, f"NEEDED in {FILE} names no registry that has them"


def test_registries_are_named_for_plans_that_there_are():
    assert module().NEEDED.keys() <= {path.stem for path in PLANS}
