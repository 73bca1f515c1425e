"""Sub-agents whose code a replay does not have: what they did is taken as it is recorded.

A replay imports no code that only its recording names. A step that asked such a sub-agent ends as
it ended then: the calls inside are not compared, and what they used is counted.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import NoReturn, cast

from fractale.agents.catalog import Catalog
from fractale.agents.subagent import AgentAnswer, AgentHost, AgentRequest, Subagent
from fractale.errors import NotDone, NotRecorded, ToolError
from fractale.graph.host import Host
from fractale.models import Usage
from fractale.plan.kinds import GENERAL_AGENTS
from fractale.replay.compare import Comparison
from fractale.replay.events import Data, Told


class RecordedAgents(Catalog):
    """A catalog, with stand-ins for the sub-agents that recorded steps asked and it lacks.

    Args:
        catalog: The sub-agents whose code is there.
        events: Of the record.
        tools: The tools that the run was offered: sub-agents of servers are among them.
        comparison: Gives the comparison of the replay; there is none before it begins.

    Attributes:
        missing: The names of those that stand-ins take the place of.
    """

    def __init__(
        self,
        catalog: Catalog,
        events: Iterable[Data],
        tools: Collection[str],
        comparison: Callable[[], Comparison],
    ) -> None:
        super().__init__()
        self._inner = catalog
        known = {*catalog.names(), *tools, *GENERAL_AGENTS}
        started = (each for each in events if each["event"] == "step_started")
        asked = [str(each.get("target") or "") for each in started if each.get("type") == "agent"]
        self.missing = tuple(dict.fromkeys(name for name in asked if name and name not in known))
        self._comparison = comparison

    def find(self, name: str) -> Subagent | None:
        """The sub-agent, or its stand-in."""
        if name not in self.missing:
            return self._inner.find(name)

        async def run(host: AgentHost, request: AgentRequest) -> AgentAnswer:
            del request
            return _as_recorded(name, cast("Host", host), self._comparison())

        return Subagent(name=name, description="recorded", run=run)

    def is_own(self, name: str) -> bool:
        """Whether it is a person's own; stand-ins are shown to no model."""
        return self._inner.is_own(name)

    def names(self) -> list[str]:
        """The names of all of them."""
        return [*self._inner.names(), *self.missing]


def _as_recorded(name: str, host: Host, comparison: Comparison) -> AgentAnswer:
    """What a sub-agent came to in the visit of a step that is in progress.

    Raises:
        NotRecorded: The record does not say it.
        NotDone, ToolError: It failed so.
    """
    if host.agents_path:
        _unknown(name, host, "another sub-agent asked it")
    inner, end = comparison.pass_over(host.path)
    attempt = host.attempt
    for told in inner:
        if told.kind == "model_finished":
            usage = _usage_of(told)
            attempt.usage += usage
            attempt.context.meter.add(usage)
    if end is None:
        if not comparison.ended:
            comparison.ends(f"in step `{host.path}`, in the sub-agent `{name}`")
        _unknown(name, host, "it had not ended")
    data, outputs = end.data, end.refs.get("outputs")
    decided, error = data.get("decided_by"), str(data.get("error") or "")
    if decided == "judge":
        _unknown(name, host, "a model judged what it answered")
    if decided == "agent":
        raise NotDone(str(data.get("reason") or error))
    if decided == "error" and data.get("code") not in ("agent", None):
        raise ToolError(error)
    return AgentAnswer(outputs=outputs, error=error if decided == "error" else None)


def _usage_of(told: Told) -> Usage:
    data = told.data
    return Usage(
        input_tokens=int(data.get("input_tokens") or 0),
        output_tokens=int(data.get("output_tokens") or 0),
        cost=float(data.get("cost") or 0.0),
        calls=1,
    )


def _unknown(name: str, host: Host, why: str) -> NoReturn:
    raise NotRecorded(
        "no-agent",
        f"the record does not say what the sub-agent `{name}` answered in step `{host.path}`: "
        f"{why}",
        hint="look at its code, and give it: fractale replay RUN -r REGISTRY, or -a PATH",
    )
