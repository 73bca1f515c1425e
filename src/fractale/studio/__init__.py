"""LangGraph Studio: plans and runs as LangGraph's development server sees them.

The server keeps threads by UUID, draws graphs and reads states; a run itself is done by
`fractale.runs`, as the command line does it, with the same record, journal and checkpoints.

- `threads`: which thread of the server is which run.
- `saver`: the server's checkpointer: reads and changes the checkpoints of runs.
- `sources`: what a graph of the server stands for: a plan's file, any plan, a question in words.
- `graph`: the graph that the server draws and reads; its stream is that of a run.
- `orders`: what the server asks for, as a start of a run or as going on with one.
- `performing`: a run, done as the command line does it, with its stream; `running`: in a thread of
  its own, so that nothing of it blocks the server.
- `factories`: what ``graphs/*.py`` name for ``langgraph.json``.
- `gate`: keeps other users and strange web pages out; `peers`: whose a connection is.
- `app`: the gate in front of the server, and the runs that the server has not seen.
- `launch`: ``fractale studio``; `names`: of graphs and of Studio's pages.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fractale.studio.app import load_app, make_app
    from fractale.studio.factories import any_plan, plan_graph, plan_graphs, prompt_graph
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
    "any_plan": "fractale.studio.factories",
    "load_app": "fractale.studio.app",
    "make_app": "fractale.studio.app",
    "open_saver": "fractale.studio.saver",
    "plan_graph": "fractale.studio.factories",
    "plan_graphs": "fractale.studio.factories",
    "prompt_graph": "fractale.studio.factories",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: the command needs no engine."""
    if name not in _HOMES:
        raise AttributeError(f"module 'fractale.studio' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
