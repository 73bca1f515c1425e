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

from typing import TYPE_CHECKING

from fractale.lazy import lazy

if TYPE_CHECKING:
    from fractale.studio.app import load_app as load_app
    from fractale.studio.app import make_app as make_app
    from fractale.studio.factories import any_plan as any_plan
    from fractale.studio.factories import plan_graph as plan_graph
    from fractale.studio.factories import plan_graphs as plan_graphs
    from fractale.studio.factories import prompt_graph as prompt_graph
    from fractale.studio.saver import open_saver as open_saver

__getattr__, __all__ = lazy(
    __name__,
    {
        "fractale.studio.app": ("load_app", "make_app"),
        "fractale.studio.factories": ("any_plan", "plan_graph", "plan_graphs", "prompt_graph"),
        "fractale.studio.saver": ("open_saver",),
    },
)
