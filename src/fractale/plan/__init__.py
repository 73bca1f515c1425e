"""The plan: what a person writes, as data. This room knows no engine and imports none.

In the order in which a plan passes through:

- `source`: YAML text → nodes with positions, within limits (`composer`, `node`, `scalars`)
- `build`: nodes → `Plan`, every structural problem at once (`fields`, `values`, `words`;
  `steps`, `rules`, `output_schema` for steps, `specs` for what is around them)
- `model`: the types of a plan
- `expressions`: templates and rules, in a sandbox
- `check`: what a plan means: steps that exist, can be reached, and end
- `inputs`: what a person gives to a run, as typed values
- `dump`: a plan back into YAML
- `schema`: the language as JSON Schema, for editors
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

__getattr__, __all__ = lazy(
    __name__,
    {
        "fractale.plan.build": ("load_plan", "parse_plan"),
        "fractale.plan.dump": ("dump_plan",),
        "fractale.plan.model": ("Plan", "Step"),
        "fractale.plan.schema": ("plan_schema",),
    },
)
