"""The plans in ``plans/``, one graph each, by the name of its file."""

from pathlib import Path

from fractale.studio import recorded_graphs

HERE = Path(__file__).resolve().parent.parent

NEEDED = {
    "build-container": "containers",
    "build-dockerfile": "containers",
    "demo": "demo",
    "kubernetes-job": "kubernetes",
    "lammps": "lammps",
    "lammps-log": "demo",
    "lammps-optimize": "lammps",
    "result-parser": "result-parser",
    "spack": "spack",
    "transform-retry": "jobspec",
    "translate": "jobspec",
}
"""Which registry's tools a plan calls, where it calls any."""

globals().update(
    recorded_graphs(
        HERE / "plans",
        {plan: [HERE / "registries" / f"{name}.yaml"] for plan, name in NEEDED.items()},
    )
)
