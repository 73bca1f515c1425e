"""The options of a run, separate from its plan."""

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
from fractale.runs.notify import Notifications

if TYPE_CHECKING:
    from langchain_core.callbacks import Callbacks
    from langgraph.checkpoint.base import BaseCheckpointSaver
    from langgraph.store.base import BaseStore


Invoke = Callable[..., Awaitable[Mapping[str, Any]]]
"""Called with a compiled graph and the arguments of its ``ainvoke``, whose result it returns."""


class Person(Protocol):
    """A user who can be asked while the run waits."""

    async def answer(self, question: Mapping[str, Any]) -> Any:
        """The answer to a question of the run, of the kinds in `fractale.questions`.

        It is cancelled if the question is answered in another process, or its time has come.

        Returns:
            An answer in any form that `fractale.questions.read_answer` reads, or an answer that it
            has read, as `Checked`. `MISSING` without an answer: the run then ends and waits.
        """
        ...


@dataclass(slots=True, kw_only=True)
class RunOptions:
    """The options of a run, separate from its plan.

    Args:
        listeners: Receive every event.
        person: Answers questions. None: the run ends waiting, or fails, if it would ask.
        answers: Answers given beforehand. They precede the user's.
        replies: Answers only to the questions that a run waits for when it is resumed.
        yes: Questions get their default answers. Approvals and reviews are accepted.
        trusted: Whether an option trusts everything that comes with the run. The audit log records
            this.
        limits: Replace the plan's limits of the same name.
        control: Lets another task or a signal handler stop the run at a step's boundary.
        checkpointer: LangGraph's saver to use instead of the state directory's.
        memory: LangGraph's store, which the agents of the run see as theirs.
        callbacks, tags, metadata: LangChain's, for everything that the run does.
        keep: Whether the run is recorded in the state directory.
        detach: Whether the run ends, waiting, when it would wait for a job.
        run_id: The id of a new run; None: a random one.
        masker: Receives the secrets of the run. It also masks other output about the run.
        invoke: Runs the graph instead of its ``ainvoke``, such as to see its stream, too.
        clock: Measures the waits for jobs.
        reuse: Whether every step that only reads takes over the result of an equal step of an
            earlier run. None: only steps that say `cache`. False: no step.
        notifications: Sends what the settings' `notify` asks for; None: nothing is sent.
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
    memory: BaseStore | None = None
    callbacks: Callbacks = None
    tags: Sequence[str] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict[str, Any])
    keep: bool = True
    detach: bool = False
    run_id: str | None = None
    masker: Masker = field(default_factory=Masker)
    invoke: Invoke | None = None
    clock: Clock = field(default_factory=SystemClock)
    reuse: bool | None = None
    notifications: Notifications | None = field(default_factory=Notifications)
