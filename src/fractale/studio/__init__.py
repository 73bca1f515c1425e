"""LangGraph Studio: plans and runs as LangGraph's development server sees them.

The server keeps threads by UUID, draws graphs and reads states; a run itself is done by
`fractale.runs`, as the command line does it, with the same record, journal and checkpoints.

- `saver`: which thread of the server is which run, and the run's checkpoints.
- `graphs`: what ``graphs/*.py`` name for ``langgraph.json``: the graphs that the server draws, of a
  plan's file, any plan, or a question in words.
- `runs`: what the server asks for, and a run done so, as the command line does it.
- `gate`: keeps other users and strange web pages out.
- `app`: the gate in front of the server, and the runs that the server has not seen.
- `launch`: ``fractale studio``.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fractale.studio.app import load_app, make_app
    from fractale.studio.graphs import any_plan, plan_graph, plan_graphs, prompt_graph
    from fractale.studio.saver import open_saver

__all__ = [
    "any_plan",
    "load_app",
    "make_app",
    "open_saver",
    "plan_graph",
    "plan_graphs",
    "prompt_graph",
]

_HOMES = {
    "any_plan": "fractale.studio.graphs",
    "load_app": "fractale.studio.app",
    "make_app": "fractale.studio.app",
    "open_saver": "fractale.studio.saver",
    "plan_graph": "fractale.studio.graphs",
    "plan_graphs": "fractale.studio.graphs",
    "prompt_graph": "fractale.studio.graphs",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: the command needs no engine."""
    if name not in _HOMES:
        raise AttributeError(f"module 'fractale.studio' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
