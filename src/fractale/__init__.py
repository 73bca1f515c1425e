"""fractale: write a plan of tools, prompts and agents in YAML, and run it so that it lasts.

A map, in the order in which data flows:

- `plan`: what a plan means: YAML with positions, templates, rules, checks, drawing. No engine.
- `settings`, `toolbox`, `events`: what a person set; the face of tools; what happens in a run.
- `mcp`, `registry`, `models`, `policy`, `store`: the outside, one adapter each.
- `jobs`: batch jobs, the same for Slurm, Flux, PBS, LSF and plain processes.
- `agents`: the built-in sub-agents.
- `graph`: a plan as a LangGraph `StateGraph`, and what its nodes do.
- `runs`: starting runs and going on with them.
- `server`, `studio`, `cli`: how people and programs reach it.
- `site`: what is on a machine, and what of it a plan needs (`fractale discover`, `doctor`).
- `tools`: local tools that ship with fractale; `testing`: a scripted model and fake tools.

In a few lines::

    import fractale

    result = fractale.run("plan.yaml", {"nodes": 4}, tools=[my_function], model=my_chat_model)
    print(result.status, result.outputs)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fractale.api import arun, load, run, validate
    from fractale.errors import FractaleError, PlanError
    from fractale.graph.compile import compile_plan
    from fractale.graph.context import Dependencies, RunContext
    from fractale.graph.state import initial_state
    from fractale.plan.model import Plan
    from fractale.runs.result import RunResult

__all__ = [
    "Dependencies",
    "FractaleError",
    "Plan",
    "PlanError",
    "RunContext",
    "RunResult",
    "arun",
    "compile_plan",
    "initial_state",
    "load",
    "run",
    "validate",
]

_HOMES = {
    "Dependencies": "fractale.graph.context",
    "FractaleError": "fractale.errors",
    "Plan": "fractale.plan.model",
    "PlanError": "fractale.errors",
    "RunContext": "fractale.graph.context",
    "RunResult": "fractale.runs.result",
    "arun": "fractale.api",
    "compile_plan": "fractale.graph.compile",
    "initial_state": "fractale.graph.state",
    "load": "fractale.api",
    "run": "fractale.api",
    "validate": "fractale.api",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: ``import fractale`` costs nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module 'fractale' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
