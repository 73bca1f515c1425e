"""How to run, apart from what to run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from langgraph.runtime import RunControl

from fractale.events import Listener
from fractale.plan.model import Limits

if TYPE_CHECKING:
    from langgraph.checkpoint.base import BaseCheckpointSaver


class Person(Protocol):
    """Somebody who can be asked while the run waits."""

    async def answer(self, question: Mapping[str, Any]) -> Any:
        """The answer to a question of the run.

        Args:
            question: ``{kind: approval, step, tool, arguments, why}``, answered with true or
                false; or ``{kind: failure, step, error}``, answered with ``retry``, ``skip``
                or ``quit``.
        """
        ...


@dataclass(slots=True, kw_only=True)
class RunOptions:
    """How to run, apart from what to run.

    Args:
        listeners: Take every event.
        person: Answers questions; None: the run ends waiting, or fails, where it would ask.
        limits: Replace the plan's limits of the same name.
        control: Lets another task or a signal handler ask the run to stop at a step's boundary.
        checkpointer: LangGraph's saver to use in place of the state folder's.
        keep: Whether the run is recorded in the state folder.
    """

    listeners: Sequence[Listener] = ()
    person: Person | None = None
    limits: Limits = field(default_factory=Limits)
    control: RunControl = field(default_factory=RunControl)
    checkpointer: BaseCheckpointSaver[Any] | None = None
    keep: bool = True
    run_id: str | None = None
