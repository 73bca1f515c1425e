"""The plan language: YAML with positions, a table of the language, checks, drawing. No engine.

These modules define the language:

- `model`: the table: the parts of a plan, each field with its key
- `forms`: keys, the forms of their values, and everything that is derived from a table
- `rules`, `inputs`, `job`, `values`: parts with special forms
- `kinds`: one object for each kind of step
- `expressions`: templates and rules, in a sandbox

A plan passes through these modules in this order:

- `source`: YAML text → nodes with positions, within limits (`node`)
- `build`: nodes → `Plan`, every structural problem at once (`fields`)
- `check`: the meaning of a plan: steps exist, can be reached, and end (`flow`, `scope`). It also
  compares a plan with the available tools (`check_tools`).
- `inputs`: the user's inputs of a run, as typed values
- `needs`: the models, tools and prompts that a plan needs, and how a step narrows them
- `dump`: a plan back into YAML
- `schema`: the language as JSON Schema, for editors
- `draw`: a plan as text, Mermaid, SVG or PNG (`diagram`, `picture`)

To add a key, add a field to its part in `model` (or `job`, `inputs`). To add a kind of step, add a
class to `kinds`, and a file that runs it to ``fractale/graph/kinds/``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fractale.lazy import lazy

if TYPE_CHECKING:
    from fractale.plan.build import load_plan as load_plan
    from fractale.plan.build import parse_plan as parse_plan
    from fractale.plan.dump import dump_plan as dump_plan
    from fractale.plan.model import Plan as Plan
    from fractale.plan.model import Step as Step
    from fractale.plan.schema import plan_schema as plan_schema
else:  # not for type checkers: they would accept any name
    __getattr__, __dir__, __all__ = lazy(
        __name__,
        {
            "fractale.plan.build": ("load_plan", "parse_plan"),
            "fractale.plan.dump": ("dump_plan",),
            "fractale.plan.model": ("Plan", "Step"),
            "fractale.plan.schema": ("plan_schema",),
        },
    )
