"""How to run, apart from what to run."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from langgraph.runtime import RunControl

from fractale.clock import Clock, SystemClock
from fractale.events import Listener
from fractale.masking import Masker
from fractale.plan.model import Limits
from fractale.questions import Answers

if TYPE_CHECKING:
    from langgraph.checkpoint.base import BaseCheckpointSaver


Invoke = Callable[..., Awaitable[Mapping[str, Any]]]
"""Called with a compiled graph and the arguments of its ``ainvoke``, whose result it returns."""


class Person(Protocol):
    """A user who can be asked while the run waits."""

    async def answer(self, question: Mapping[str, Any]) -> Any:
        """The answer to a question of the run, of the kinds in `fractale.questions`.

        Returns:
            An answer in any form that `fractale.questions.read_answer` reads, or one that it
            has read, as `Checked`. `MISSING` if there is no answer: then the run ends waiting.
        """
        ...


@dataclass(slots=True, kw_only=True)
class RunOptions:
    """How to run, apart from what to run.

    Args:
        listeners: Receive every event.
        person: Answers questions; None: the run ends waiting, or fails, where it would ask.
        answers: Answers given beforehand; they come before the user's.
        replies: Answers to what a run waits for when it is resumed, and to nothing later.
        yes: Questions get their default answers; approvals and reviews are agreed to.
        trusted: Whether an option trusts all that the run comes with; the audit log says so.
        limits: Replace the plan's limits of the same name.
        control: Lets another task or a signal handler ask the run to stop at a step's boundary.
        checkpointer: LangGraph's saver to use in place of the state folder's.
        keep: Whether the run is recorded in the state folder.
        detach: Whether the run ends, waiting, where it would wait for a job.
        run_id: The id of a new run; None: one is drawn.
        masker: Learns the secrets of the run; other output about the run is masked with it.
        invoke: Runs the graph in place of its ``ainvoke``, such as to see its stream, too.
        clock: What waits for jobs are measured by.
    """

    listeners: Sequence[Listener] = ()
    person: Person | None = None
    answers: Answers = field(default_factory=Answers)
    replies: Answers = field(default_factory=Answers)
    yes: bool = False
    trusted: bool = False
    limits: Limits = field(default_factory=Limits)
    control: RunControl = field(default_factory=RunControl)
    checkpointer: BaseCheckpointSaver[Any] | None = None
    keep: bool = True
    detach: bool = False
    run_id: str | None = None
    masker: Masker = field(default_factory=Masker)
    invoke: Invoke | None = None
    clock: Clock = field(default_factory=SystemClock)
