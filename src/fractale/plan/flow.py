"""The transitions of a plan: which steps can be reached, their order, and endless loops."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field

from fractale.errors import Problem
from fractale.plan.fields import nearest
from fractale.plan.kinds import KINDS
from fractale.plan.model import Limits, Plan, Step
from fractale.plan.rules import END_FAILED, END_SUCCESS, FAILURE, SUCCESS

_ENDS = (END_SUCCESS, END_FAILED)
_OUTCOMES = (SUCCESS, FAILURE)


def rule_events(step: Step) -> list[str]:
    """The events that the step's rules name, in file order, each once."""
    return list(dict.fromkeys(rule.event for rule in step.rules))


@dataclass(slots=True)
class Flow:
    """The steps of one plan and where they can lead.

    A transition to a step that does not exist counts as one to the nearest name, or else to any
    step. So one fault is reported once.

    Args:
        plan: The plan.
        prefix: The path of the plan inside another, such as ``steps[2].plan.``.
        around: Of a chain, the step that has it, and the names of the steps around it.
    """

    plan: Plan
    prefix: str = ""
    around: tuple[str, Collection[str]] | None = None
    _number: dict[str, int] = field(init=False)
    _after: list[int] = field(init=False)

    def __post_init__(self) -> None:
        self._number = {step.name: index for index, step in enumerate(self.plan.steps)}
        self._after = _closure([self._targets(step) for step in self.plan.steps])

    def can_run(self, step: str) -> bool:
        """Whether the run can reach a step."""
        number = self._number.get(step, 0)
        return number == 0 or bool(self._after[0] >> number & 1)

    def can_precede(self, step: str, later: str) -> bool:
        """Whether a step can have run when the run reaches another step, or the same one again."""
        return bool(self._after[self._number[step]] >> self._number[later] & 1)

    def can_come_first(self, step: str, later: str) -> bool:
        """Whether the run can reach a step before it enters a later step for the first time."""
        if not self.can_precede(step, later):
            return False
        number, avoided = self._number[step], self._number[later]
        seen, waiting = {avoided}, [0]
        while waiting:
            current = waiting.pop()
            if current in seen:
                continue
            if current == number:
                return True
            seen.add(current)
            waiting += self._targets(self.plan.steps[current])
        return False

    def problems(self, outer: Limits | None = None) -> Iterator[Problem]:
        """The faults of transitions: unknown targets, unreachable steps, endless loops.

        Args:
            outer: The limits of the run that the plan is included in.
        """
        for index, step in enumerate(self.plan.steps):
            path = f"{self.prefix}steps[{index}]"
            yield from self._bad_targets(step, path)
            yield from _event_problems(step, path)
            yield from self._unused_reason(step, path)
            for number, inner in enumerate(step.steps):
                yield from _inside_problems(inner, step, f"{path}.parallel[{number}]")
        yield from self._unreachable()
        yield from self._endless(outer)

    def _targets(self, step: Step) -> list[int]:
        """The numbers of the steps that a step can lead to."""
        found: set[int] = set()
        for event in {*_OUTCOMES, *step.transitions}:
            target = self.plan.target_of(step, event)
            if target in self._number:
                found.add(self._number[target])
            elif target not in _ENDS:
                meant = nearest(target, self._number)
                found |= {self._number[meant]} if meant else set(self._number.values())
        return sorted(found)

    def _bad_targets(self, step: Step, path: str) -> Iterator[Problem]:
        for event, target in step.transitions.items():
            if target in self._number or target in _ENDS:
                continue
            elsewhere = self._elsewhere(target)
            yield Problem(
                "unknown-step",
                elsewhere or f"no step is named `{target}`",
                step.where(f"transitions.{event}"),
                f"{path}.transitions.{event}",
                len(target),
                suggestion=None if elsewhere else nearest(target, [*self._number, *_ENDS]),
            )

    def _elsewhere(self, target: str) -> str | None:
        """The message about a target that is a step of the file, inside or outside of a step."""
        for step in self.plan.steps:
            if target in _names([*step.walk()]):
                inside = "the parallel block " if step.kind == "parallel" else ""
                return f"`{target}` is inside {inside}`{step.name}`; lead to that"
        if self.around is None or target not in self.around[1]:
            return None
        chain = self.around[0]
        return (
            f"`{target}` is outside of the chain `{chain}`; lead to `success` or `failed` here, "
            f"and from `{chain}` to `{target}`"
        )

    def _unused_reason(self, step: Step, path: str) -> Iterator[Problem]:
        if step.reason is None:
            return
        events = {*_OUTCOMES, *step.transitions}
        if all(self.plan.target_of(step, event) != END_FAILED for event in events):
            message = f"no event of `{step.name}` leads to `failed`, so its reason is never used"
            where = step.where("reason")
            yield Problem("unused-reason", message, where, f"{path}.reason", severity="warning")

    def _unreachable(self) -> Iterator[Problem]:
        covered = 0
        for index, step in enumerate(self.plan.steps):
            if self.can_run(step.name) or covered >> index & 1:
                continue
            # Steps that only this step leads to are not separate faults.
            covered |= self._after[index]
            message = f"no step leads to `{step.name}`"
            where = step.where("name")
            yield Problem(
                "unreachable", message, where, f"{self.prefix}steps[{index}]", len(step.name)
            )

    def _endless(self, outer: Limits | None) -> Iterator[Problem]:
        for cycle in self._success_cycles():
            if not self.can_run(cycle[0].name) or self._is_bounded(cycle, outer):
                continue
            last = cycle[-1]
            names = " → ".join(f"`{step.name}`" for step in [*cycle, cycle[0]])
            message = (
                f"{names} repeats forever: no rule leads out, and no limit ends it; give a "
                "step of it `max_attempts`, or a rule and a transition that lead out"
            )
            path = f"{self.prefix}steps[{self._number[last.name]}].transitions.success"
            where = last.where("transitions.success")
            yield Problem("unbounded-loop", message, where, path, len(cycle[0].name))

    def _success_cycles(self) -> Iterator[list[Step]]:
        """The loops that a run repeats as long as every step succeeds.

        Each loop starts with its first step in the file. A step has one transition after success,
        so two loops never share a step.
        """
        seen: set[str] = set()
        for first in self.plan.steps:
            trail: dict[str, Step] = {}
            step: Step | None = first
            while step and step.name not in seen:
                seen.add(step.name)
                trail[step.name] = step
                step = self._after_success(step)
            if step and step.name in trail:
                names = list(trail)
                cycle = [trail[name] for name in names[names.index(step.name) :]]
                start = min(range(len(cycle)), key=lambda i: self._number[cycle[i].name])
                yield cycle[start:] + cycle[:start]

    def _after_success(self, step: Step) -> Step | None:
        number = self._number.get(self.plan.target_of(step, SUCCESS))
        return None if number is None else self.plan.steps[number]

    def _is_bounded(self, cycle: Sequence[Step], outer: Limits | None) -> bool:
        limits = [self.plan.limits, *([outer] if outer else [])]
        if self.plan.limits.attempts or any(limit.steps or limit.time for limit in limits):
            return True
        if any(limit.tokens or limit.cost for limit in limits) and any(map(_asks_model, cycle)):
            return True
        names = _names(cycle)
        return any(
            step.max_attempts
            or any(self.plan.target_of(step, event) not in names for event in rule_events(step))
            for step in cycle
        )


def _names(steps: Sequence[Step]) -> set[str]:
    return {step.name for step in steps}


def _asks_model(step: Step) -> bool:
    return step.judge is not False or KINDS[step.kind].asks_model


def _event_problems(step: Step, path: str) -> Iterator[Problem]:
    events = rule_events(step)
    meant: set[str | None] = set()
    for event in events:
        if event not in step.transitions and event not in _OUTCOMES:
            near = nearest(event, [*step.transitions, *_OUTCOMES])
            meant.add(near)
            message = f"`transitions` does not say where the event `{event}` leads"
            where = step.where(f"rules.{event}")
            yield Problem(
                "unknown-event", message, where, f"{path}.rules.{event}", len(event), near
            )
    for event in step.transitions:
        if event not in events and event not in _OUTCOMES and event not in meant:
            yield _unused(step, event, path, f"no rule of `{step.name}` gives the event `{event}`")


def _unused(step: Step, event: str, path: str, message: str) -> Problem:
    return Problem(
        "unused-transition",
        message,
        step.where(f"transitions.{event}"),
        f"{path}.transitions.{event}",
        suggestion=nearest(event, rule_events(step)),
        severity="warning",
    )


def _inside_problems(step: Step, block: Step, path: str) -> Iterator[Problem]:
    """A step of a parallel block has no transitions and no reason: the block has them."""
    if step.reason is not None:
        message = f"`{step.name}` ends where its block `{block.name}` does; give the block a reason"
        yield Problem("inside-parallel", message, step.where("reason"), f"{path}.reason")
    for event, target in step.transitions.items():
        if target in _ENDS:
            message = f"has no effect: `{step.name}` ends where its block `{block.name}` does"
            yield _unused(step, event, path, message)
        else:
            yield Problem(
                "inside-parallel",
                f"`{step.name}` runs in parallel with the other steps of `{block.name}` and leads "
                "nowhere; give the block the transition",
                step.where(f"transitions.{event}"),
                f"{path}.transitions.{event}",
                len(target),
            )


def _closure(targets: Sequence[Sequence[int]]) -> list[int]:
    """For every step, the steps that can come after it, as the bits of an integer."""
    after = [0] * len(targets)
    # A loop comes after the steps that it leads to, and all of its steps lead to the same steps.
    for loop in reversed(_loops(targets)):
        found = 0
        for number in loop:
            for target in targets[number]:
                found |= after[target] | 1 << target
        for number in loop:
            after[number] = found
    return after


def _loops(targets: Sequence[Sequence[int]]) -> list[list[int]]:
    """The steps in groups that lead to each other, each group before those that it leads to."""
    sources: list[list[int]] = [[] for _ in targets]
    for number, onward in enumerate(targets):
        for target in onward:
            sources[target].append(number)
    found: list[list[int]] = []
    seen: set[int] = set()
    # Kosaraju's algorithm: go backward from the step that was left last, to steps without a group.
    for start in reversed(_postorder(targets)):
        stack = [start] if start not in seen else []
        seen.add(start)
        loop: list[int] = []
        while stack:
            number = stack.pop()
            loop.append(number)
            fresh = [source for source in sources[number] if source not in seen]
            seen.update(fresh)
            stack += fresh
        if loop:
            found.append(loop)
    return found


def _postorder(targets: Sequence[Sequence[int]]) -> list[int]:
    """The steps, each after those that it leads to, as far as loops allow."""
    order: list[int] = []
    seen: set[int] = set()
    for start in range(len(targets)):
        stack = [(start, iter(targets[start]))] if start not in seen else []
        seen.add(start)
        while stack:
            number, onward = stack[-1]
            following = next((target for target in onward if target not in seen), None)
            if following is None:
                order.append(number)
                stack.pop()
            else:
                seen.add(following)
                stack.append((following, iter(targets[following])))
    return order
