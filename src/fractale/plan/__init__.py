"""The plan: what a person writes, as data. This room knows no engine and imports none.

In the order in which a plan passes through:

- `source`: YAML text → nodes with positions, within limits (`composer`, `node`, `scalars`)
- `build`: nodes → `Plan`, every structural problem at once (`fields`, `values`, `words`;
  `steps`, `rules`, `output_schema`, `durations` for steps, `specs` for what is around them)
- `model`: the types of a plan
- `expressions`: templates and rules, in a sandbox
- `check`: what a plan means: steps that exist, can be reached, and end
- `inputs`: what a person gives to a run, as typed values
- `dump`: a plan back into YAML
- `schema`: the language as JSON Schema, for editors
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fractale.plan.build import load_plan, parse_plan
    from fractale.plan.dump import dump_plan
    from fractale.plan.model import Plan, Step
    from fractale.plan.schema import plan_schema

__all__ = ["Plan", "Step", "dump_plan", "load_plan", "parse_plan", "plan_schema"]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: most commands need few of them."""
    home = {
        "Plan": "model",
        "Step": "model",
        "dump_plan": "dump",
        "load_plan": "build",
        "parse_plan": "build",
        "plan_schema": "schema",
    }
    if name not in home:
        raise AttributeError(f"module `{__name__}` has no attribute `{name}`")
    return getattr(import_module(f"{__name__}.{home[name]}"), name)
