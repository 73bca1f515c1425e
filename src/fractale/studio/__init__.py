"""LangGraph Studio: plans and runs as LangGraph's development server sees them.

The server keeps threads by UUID, draws graphs and reads states. `fractale.runs` does the runs, with
the same record, journal and checkpoints as on the command line.

- `saver`: the mapping of the server's threads to runs, and the checkpoints of runs.
- `graphs`: the functions for ``graphs/*.py`` of ``langgraph.json``. They build the graph of a
  plan's file, of any plan, or of a prompt.
- `runs`: the server's requests, and the runs for them.
- `gate`: refuses other users and foreign web pages.
- `app`: the gate in front of the server, and the runs that the server has not seen.
- `launch`: ``fractale studio``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fractale.lazy import lazy

if TYPE_CHECKING:
    from fractale.studio.app import load_app as load_app
    from fractale.studio.app import make_app as make_app
    from fractale.studio.graphs import any_plan as any_plan
    from fractale.studio.graphs import prompt_graph as prompt_graph
    from fractale.studio.graphs import recorded_graph as recorded_graph
    from fractale.studio.graphs import recorded_graphs as recorded_graphs
    from fractale.studio.saver import open_saver as open_saver
else:  # not for type checkers: they would accept any name
    __getattr__, __dir__, __all__ = lazy(
        __name__,
        {
            "fractale.studio.app": ("load_app", "make_app"),
            "fractale.studio.graphs": (
                "any_plan",
                "recorded_graph",
                "recorded_graphs",
                "prompt_graph",
            ),
            "fractale.studio.saver": ("open_saver",),
        },
    )
