"""The plan language: YAML with positions, the language as one table, checks, drawing. No engine.

The language itself:

- `model`: the table: the parts of a plan, each field with its key
- `forms`: what a key is, the forms that values have, and what is derived from a table
- `rules`, `inputs`, `job`, `values`: parts with forms of their own
- `kinds`: one object for each kind of step
- `expressions`: templates and rules, in a sandbox

What happens to a plan, in this order:

- `source`: YAML text → nodes with positions, within limits (`node`)
- `build`: nodes → `Plan`, every structural problem at once (`fields`)
- `check`: what a plan means: steps that exist, can be reached, and end (`flow`, `scope`), and what
  fits the tools that there are (`check_tools`)
- `inputs`: what the user gives to a run, as typed values
- `needs`: the models, tools and prompts that a plan needs, and how a step narrows them
- `dump`: a plan back into YAML
- `schema`: the language as JSON Schema, for editors
- `draw`: a plan as text, Mermaid, SVG or PNG (`diagram`, `picture`)

To add a key, add a field to its part in `model` (or `job`, `inputs`). To add a kind of step, add a
class to `kinds`, and a file that runs it to ``fractale/graph/kinds/``.
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
