"""fractale: write a plan of tools, prompts and agents in YAML, and run it so that it lasts.

A map, in the order in which data flows:

- `plan`: the meaning of a plan: YAML with positions, templates, rules, checks, drawing. No engine.
- `settings`, `toolbox`, `events`: the user's settings; the interface of tools; a run's events.
- `mcp`, `registry`, `models`, `policy`, `store`: everything outside of fractale, one adapter each.
- `jobs`: batch jobs, the same for Slurm, Flux, PBS, LSF and plain processes.
- `agents`: the built-in sub-agents.
- `graph`: a plan as a LangGraph `StateGraph`, and its nodes.
- `runs`: starting runs and resuming them.
- `compose`: plans in LangGraph applications.
- `server`, `studio`, `cli`: the interfaces for users and programs.
- `site`: the machine's features, and which of them a plan needs (`fractale discover`, `doctor`).
- `tools`: local tools that ship with fractale; `testing`: a scripted model and fake tools.

In a few lines::

    import fractale

    result = fractale.run("plan.yaml", {"nodes": 4}, tools=[my_function], model=my_chat_model)
    print(result.status, result.outputs)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fractale.lazy import lazy

if TYPE_CHECKING:
    from fractale.api import acancel as acancel
    from fractale.api import afork as afork
    from fractale.api import areplay as areplay
    from fractale.api import aresume as aresume
    from fractale.api import aresume_sweep as aresume_sweep
    from fractale.api import arun as arun
    from fractale.api import astream as astream
    from fractale.api import astream_resume as astream_resume
    from fractale.api import asweep as asweep
    from fractale.api import cancel as cancel
    from fractale.api import fork as fork
    from fractale.api import list_runs as list_runs
    from fractale.api import load as load
    from fractale.api import replay as replay
    from fractale.api import resolve as resolve
    from fractale.api import resume as resume
    from fractale.api import resume_sweep as resume_sweep
    from fractale.api import run as run
    from fractale.api import stream as stream
    from fractale.api import stream_resume as stream_resume
    from fractale.api import sweep as sweep
    from fractale.api import validate as validate
    from fractale.compose import PlanFailed as PlanFailed
    from fractale.compose import as_node as as_node
    from fractale.compose import as_tool as as_tool
    from fractale.compose import plan_graph as plan_graph
    from fractale.errors import AnswerError as AnswerError
    from fractale.errors import CallError as CallError
    from fractale.errors import DependencyMissing as DependencyMissing
    from fractale.errors import FractaleError as FractaleError
    from fractale.errors import InputError as InputError
    from fractale.errors import JobError as JobError
    from fractale.errors import JobInDoubt as JobInDoubt
    from fractale.errors import LimitReached as LimitReached
    from fractale.errors import ListenerError as ListenerError
    from fractale.errors import ModelError as ModelError
    from fractale.errors import ModelUnavailable as ModelUnavailable
    from fractale.errors import NotDone as NotDone
    from fractale.errors import NotRecorded as NotRecorded
    from fractale.errors import PlanError as PlanError
    from fractale.errors import PolicyError as PolicyError
    from fractale.errors import Position as Position
    from fractale.errors import Problem as Problem
    from fractale.errors import RunHeld as RunHeld
    from fractale.errors import SchedulerUnavailable as SchedulerUnavailable
    from fractale.errors import SettingsError as SettingsError
    from fractale.errors import Stopped as Stopped
    from fractale.errors import StoreError as StoreError
    from fractale.errors import SweepError as SweepError
    from fractale.errors import TemplateError as TemplateError
    from fractale.errors import ToolError as ToolError
    from fractale.errors import TransportError as TransportError
    from fractale.errors import UsageError as UsageError
    from fractale.events import Event as Event
    from fractale.graph.compile import compile_plan as compile_plan
    from fractale.graph.context import Dependencies as Dependencies
    from fractale.graph.context import RunContext as RunContext
    from fractale.graph.plan_graph import PlanContext as PlanContext
    from fractale.graph.plan_graph import PlanGraph as PlanGraph
    from fractale.graph.plan_graph import PlanOutput as PlanOutput
    from fractale.graph.state import PlanState as PlanState
    from fractale.graph.state import initial_state as initial_state
    from fractale.models import Models as Models
    from fractale.plan.model import Limits as Limits
    from fractale.plan.model import Plan as Plan
    from fractale.policy import Policy as Policy
    from fractale.replaying.invocation import ReplayKeywords as ReplayKeywords
    from fractale.replaying.replay import Replayed as Replayed
    from fractale.runs.cancelling import Cancelled as Cancelled
    from fractale.runs.invocation import RunKeywords as RunKeywords
    from fractale.runs.options import Person as Person
    from fractale.runs.result import RunResult as RunResult
    from fractale.settings import Settings as Settings
    from fractale.settings import load_settings as load_settings
    from fractale.store.index import RunRow as RunRow
    from fractale.sweeps.invocation import SweepKeywords as SweepKeywords
    from fractale.sweeps.results import RowView as RowView
    from fractale.sweeps.results import SweepView as SweepView
    from fractale.toolbox import Toolbox as Toolbox
    from fractale.version import __version__ as __version__
else:  # not for type checkers: they would accept any name
    __getattr__, __dir__, __all__ = lazy(
        __name__,
        {
            "fractale.api": (
                "acancel",
                "afork",
                "areplay",
                "aresume",
                "aresume_sweep",
                "arun",
                "astream",
                "astream_resume",
                "asweep",
                "cancel",
                "fork",
                "list_runs",
                "load",
                "replay",
                "resolve",
                "resume",
                "resume_sweep",
                "run",
                "stream",
                "stream_resume",
                "sweep",
                "validate",
            ),
            "fractale.compose": (
                "PlanFailed",
                "as_node",
                "as_tool",
                "plan_graph",
            ),
            "fractale.errors": (
                "AnswerError",
                "CallError",
                "DependencyMissing",
                "FractaleError",
                "InputError",
                "JobError",
                "JobInDoubt",
                "LimitReached",
                "ListenerError",
                "ModelError",
                "ModelUnavailable",
                "NotDone",
                "NotRecorded",
                "PlanError",
                "PolicyError",
                "Position",
                "Problem",
                "RunHeld",
                "SchedulerUnavailable",
                "SettingsError",
                "Stopped",
                "StoreError",
                "SweepError",
                "TemplateError",
                "ToolError",
                "TransportError",
                "UsageError",
            ),
            "fractale.events": ("Event",),
            "fractale.graph.compile": ("compile_plan",),
            "fractale.graph.context": (
                "Dependencies",
                "RunContext",
            ),
            "fractale.graph.plan_graph": (
                "PlanContext",
                "PlanGraph",
                "PlanOutput",
            ),
            "fractale.graph.state": (
                "PlanState",
                "initial_state",
            ),
            "fractale.models": ("Models",),
            "fractale.plan.model": (
                "Limits",
                "Plan",
            ),
            "fractale.policy": ("Policy",),
            "fractale.replaying.invocation": ("ReplayKeywords",),
            "fractale.replaying.replay": ("Replayed",),
            "fractale.runs.cancelling": ("Cancelled",),
            "fractale.runs.invocation": ("RunKeywords",),
            "fractale.runs.options": ("Person",),
            "fractale.runs.result": ("RunResult",),
            "fractale.settings": (
                "Settings",
                "load_settings",
            ),
            "fractale.store.index": ("RunRow",),
            "fractale.sweeps.invocation": ("SweepKeywords",),
            "fractale.sweeps.results": (
                "RowView",
                "SweepView",
            ),
            "fractale.toolbox": ("Toolbox",),
            "fractale.version": ("__version__",),
        },
    )
