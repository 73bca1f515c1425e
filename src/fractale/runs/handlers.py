"""The handlers of a run's plan, which run at its ends: ``on_failure`` and ``finally``.

They have a graph and a thread of checkpoints of their own (`fractale.graph.handlers`), since the
plan may continue from its own checkpoint. A run may have several ends, such as a limit, and after a
resume another one. The thread has the handlers of the latest.
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

from langgraph.types import StateSnapshot

from fractale.graph.compile import build_graph
from fractale.graph.context import Dependencies, RunContext
from fractale.graph.handlers import GAVE_UP, handlers_graph, is_same_end, state_at_end
from fractale.graph.state import PlanEnd
from fractale.plan.model import Plan
from fractale.questions import is_due, needs_no_answer
from fractale.runs.answering import in_order
from fractale.runs.reporter import End
from fractale.runs.rounds import Rounds, Thread
from fractale.store.run_record import HANDLERS_THREAD

ENDS: Final = ("success", "failed", "limit")
"""The statuses of a run at which the handlers of its plan run."""

CANCELLED: Final = "cancelled"


@dataclass(frozen=True, slots=True)
class Handlers:
    """The handlers of a run's plan, and the state in which its latest end left them."""

    plan: Plan
    thread: Thread
    snapshot: Any

    @property
    def is_unfinished(self) -> bool:
        """Whether an earlier process began them and did not finish them."""
        return bool(self.snapshot.tasks)

    @property
    def have_run(self) -> bool:
        """Whether they ran at an earlier end."""
        return bool(self.snapshot.values.get("ended"))

    @property
    def report(self) -> End:
        """The end at which they ran, without the outputs of the plan."""
        return dict(self.snapshot.values["ended"]["report"])

    @property
    def asked(self) -> Sequence[Any]:
        """The questions that they wait for."""
        return self.snapshot.interrupts

    def is_done(self, ended: PlanEnd) -> bool:
        """Whether they have finished at this very end."""
        same = is_same_end(self.snapshot.values.get("ended") or PlanEnd(), ended)
        return self.have_run and not self.is_unfinished and same

    async def begin(self, rounds: Rounds, plan_state: Mapping[str, Any], ended: PlanEnd) -> Any:
        """Run them at an end of the plan. Returns their graph's values.

        Args:
            plan_state: The plan's state at its end.
        """
        earlier = self.snapshot.values.get("steps")
        given = state_at_end(self.plan, plan_state, ended, earlier)
        return await rounds.run(self.thread, given)

    async def resume(self, rounds: Rounds) -> Any:
        """Finish those that an earlier process began. Returns their graph's values."""
        return await rounds.run(self.thread, None, self.asked)

    async def finish(self, rounds: Rounds, context: RunContext) -> Any:
        """Finish those that an earlier process began, for a run that is cancelled.

        What they wait for already ends its list. Returns their graph's values.
        """
        if any(not is_due(each.value, context.clock) for each in self.asked):
            return await self._end_list(self.asked, rounds, context)
        return await self.without_answers(self.resume(rounds), rounds, context)

    async def without_answers(
        self, work: Awaitable[Mapping[str, Any]], rounds: Rounds, context: RunContext
    ) -> Any:
        """The values after some work. A question in it ends its list, and the next one runs."""
        values = await work
        if asked := values.get("__interrupt__"):
            return await self._end_list(asked, rounds, context)
        return values

    async def _end_list(self, asked: Sequence[Any], rounds: Rounds, context: RunContext) -> Any:
        """End the list whose steps wait for something, with a warning, and run the next one."""
        snapshot = await self.thread.snapshot(subgraphs=True)
        (task,) = snapshot.tasks
        for each in in_order(asked):
            what = "it waited" if needs_no_answer(each.value) else "its question had no answer"
            words = f"{what} when the run was cancelled; the rest of `{task.name}` did not run"
            step = str(each.value.get("step") or task.name)
            context.emit("warning", step=step, code=GAVE_UP, message=words)
        known: dict[str, Any] = task.state.values.get("steps", {}) if task.state else {}
        graph, config = self.thread.graph, self.thread.config
        await graph.aupdate_state(config, {"steps": known}, as_node=task.name)
        after = await self.thread.snapshot()
        if not after.next:
            return after.values
        return await self.without_answers(rounds.run(self.thread, None), rounds, context)


async def open_handlers(
    plan: Plan, dependencies: Dependencies, of_plan: Thread, run_id: str
) -> Handlers:
    """The handlers of a run.

    Args:
        plan: A plan with handlers.
        of_plan: The graph and the thread of the plan's own steps.
    """
    steps = of_plan.graph
    graph: Any = handlers_graph(plan, dependencies, build_graph).compile(
        checkpointer=steps.checkpointer, store=steps.store, name=plan.name
    )
    config = {**of_plan.config, "configurable": {"thread_id": f"{run_id}{HANDLERS_THREAD}"}}
    thread = Thread(graph=graph, config=config)
    return Handlers(plan, thread, await thread.snapshot())


def plan_end(plan: Plan, end: End, snapshot: Any, context: RunContext) -> PlanEnd:
    """How the plan ended, as its handlers see it.

    Args:
        snapshot: The latest state of the plan's own steps, with those of the graphs inside.
    """
    broken = _broken(plan, snapshot) if end["status"] == "failed" else None
    ended = PlanEnd(
        outcome=CANCELLED if end["status"] == "stopped" else end["status"],
        step=end.get("gave_up") or broken or snapshot.values.get("last"),
        error=end.get("error"),
        report={name: value for name, value in end.items() if name != "outputs"},
    )
    at = str(snapshot.config["configurable"].get("checkpoint_id", ""))
    return cast("PlanEnd", {**context.mask(ended), "at": at})


def _broken(plan: Plan, snapshot: Any) -> str | None:
    """The step of the plan whose error ended its graph; None if the graph came to an end."""
    for task in snapshot.tasks:
        if task.error is None:
            continue
        if any(step.name == task.name for step in plan.steps):
            return str(task.name)
        if isinstance(task.state, StateSnapshot):  # of a segment
            return _broken(plan, task.state)
    return None
