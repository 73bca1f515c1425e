"""Where a node of a plan leads: what its conditional edge reads from the state.

LangGraph takes a runnable as it is, and wraps a function in one that reads its annotations when the
graph is built, and that tells its callbacks and changes to another thread at every step: a tenth
of what a step costs, for one look at a dict.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from langchain_core.runnables import Runnable, RunnableConfig

from fractale.graph.state import PlanState

ENTRY = "goto"
"""The key of the state that says which step of the next segment is entered."""


class Route(Runnable[PlanState, str]):
    """Reads from the state which of a node's edges is taken: the edge's label."""

    name = "route"

    @abstractmethod
    def label(self, state: PlanState) -> str:
        """The label of the edge that is taken."""

    def invoke(self, input: PlanState, config: RunnableConfig | None = None, **kwargs: Any) -> str:  # noqa: A002 - LangChain's name
        """See `label`."""
        del config, kwargs
        return self.label(input)

    async def ainvoke(
        self,
        input: PlanState,  # noqa: A002 - LangChain's name
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> str:
        """See `label`."""
        del config, kwargs
        return self.label(input)


class ByEvent(Route):
    """From a step: by the event of its last attempt.

    Args:
        step: The step's name.
    """

    def __init__(self, step: str) -> None:
        self._step = step

    def label(self, state: PlanState) -> str:
        """The event."""
        return state["steps"][self._step]["event"]  # pyright: ignore[reportTypedDictNotRequiredAccess] - every record that a node writes has its event


class ByGoto(Route):
    """From a segment: by the end that was reached in it, or the step outside that it leads to."""

    def label(self, state: PlanState) -> str:
        """The end or the step's name."""
        status = state.get("status")
        if status is not None:
            return "failed" if status == "failed" else "success"
        return str(state.get(ENTRY))
