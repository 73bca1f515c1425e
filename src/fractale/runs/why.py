"""Why each step of a plan would run, or from which run it would take over its result.

The walk goes from step to step as a run does, and makes no call. The outputs of a step that takes
over its result are known, so the keys of the steps after it can be made. The outputs of a step that
runs are not known: whatever reads them depends on it. The walk assumes that such a step succeeds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal

from fractale.errors import CallError, StoreError
from fractale.graph.call import Attempt
from fractale.graph.context import Dependencies, Outer, ResultCache, RunContext
from fractale.graph.kinds.foreach import chosen_items
from fractale.graph.kinds.include import given_inputs, outputs_at_end
from fractale.graph.kinds.parallel import state_inside
from fractale.graph.kinds.set import name_values
from fractale.graph.outcome import DEFAULT_SUCCESS, CallResult, decide
from fractale.graph.reuse import Sought, result_in, seek
from fractale.graph.reuse_key import NoSuchFile, NotKeyed
from fractale.graph.state import ItemState, PlanState, Spent, initial_state
from fractale.graph.step import (
    WHEN_FALSE,
    AsItem,
    AsStep,
    StepNode,
    applies,
    bare_node,
    item_node,
    prepare,
)
from fractale.plan.model import SUCCESS, Plan, Step
from fractale.plan.scope import is_per_item
from fractale.store.cache import CacheStore, Entry

Verdict = Literal["taken over", "runs", "skipped"]

ORDER: Final = ("argument", "file", "`", "instruction", "prompt", "model", "tool", "server")
"""The beginnings of names of parts: the first difference that is named is what users change."""

WORDS: Final[Mapping[str, str]] = {
    "tool": "the definition of the tool",
    "tools": "the tools that its model may call",
    "kind": "fractale's own version of such steps",
    "version": "the version of fractale",
    "server": "the version of the server",
    "task": "the task of the judge",
}

MOST_STEPS: Final = 10_000
"""The steps that a walk enters: a plan may lead in a circle."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Why:
    """The verdict on one step: whether a run would make its call.

    Args:
        step: The step's path; of an item of a foreach, ``each[3]``.
        reason: As text; empty for a result that is taken over.
        run, at: The run whose result is taken over, or that comes nearest, and when it was kept, in
            Unix time.
        differs: The names of the parts of the key that differ from that run's.
        items: Of a foreach, how many items there are with each verdict.
    """

    step: str
    type: str
    verdict: Verdict
    reason: str = ""
    run: str = ""
    at: float = 0.0
    differs: tuple[str, ...] = ()
    items: Mapping[str, int] = field(default_factory=dict[str, int])

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


async def reasons(
    plan: Plan, inputs: Mapping[str, Any], deps: Dependencies, context: RunContext
) -> list[Why]:
    """The verdict on each step of a plan, in the order of the run.

    Args:
        inputs: In the form that the state of a run stores.
        deps: With the results that may be taken over; None: none is.
    """
    walk = _Walk(deps, context)
    await walk.plan(plan, initial_state(inputs), context)
    return walk.found


@dataclass(slots=True)
class _Level:
    """One plan, or a block or a chain in it, during the walk.

    Args:
        unknown: The steps whose outputs are not known, as they run.
        values: The named values that are not known, with the step that names them.
    """

    plan: Plan
    context: RunContext
    state: PlanState
    unknown: dict[str, str] = field(default_factory=dict[str, str])
    values: dict[str, str] = field(default_factory=dict[str, str])

    def after(self, step: Step, event: str) -> str:
        """Where an event of a step leads; nowhere for a step of a block."""
        return self.plan.target_of(step, event) if step.name in self.plan.next_steps else ""

    def depends_on(self, node: StepNode) -> str:
        """The step that runs and whose outputs the node reads; empty if there is none."""
        needs, last = node.needs, self.state.get("last") or ""
        read = [n for n in self.unknown if needs.steps is None or n in needs.steps]
        if needs.previous and last in self.unknown:
            read.append(last)
        named = [s for v, s in self.values.items() if needs.values is None or v in needs.values]
        return next((self.unknown[name] for name in read), next(iter(named), ""))


class _Walk:
    def __init__(self, deps: Dependencies, context: RunContext) -> None:
        self._deps = deps
        self._left = MOST_STEPS
        self.found: list[Why] = []

    async def plan(
        self, plan: Plan, state: PlanState, context: RunContext, outer: _Level | None = None
    ) -> PlanState | None:
        """Walk through a plan; returns its state at the end, None if that is not known."""
        level = _Level(plan, context, state)
        if outer is not None:
            level.unknown, level.values = dict(outer.unknown), dict(outer.values)
        members = frozenset(step.name for step in plan.steps)
        name, entered, ended = plan.steps[0].name, set[str](), True
        while name in members and name not in entered and self._left:
            self._left -= 1
            entered.add(name)
            step = plan.step(name)
            node = bare_node(plan, step, self._deps.within(plan), members)
            name = await self._step(node, level)
            ended = ended and not level.unknown.get(step.name)
        return level.state if ended and name not in members else None

    async def _step(self, node: StepNode, level: _Level) -> str:
        """Look at one step; returns the next one, or the end of the plan."""
        step = node.step
        path = level.state.get("prefix", "") + step.name
        if on := level.depends_on(node):
            self._runs(level, step, path, f"depends on step `{on}`, which runs")
            return level.after(step, SUCCESS)
        entry = AsStep(node, level.state, level.context)
        attempt = entry.attempt({}, 1, None)
        try:
            if step.when is not None and not is_per_item(step) and not applies(attempt):
                self.found.append(
                    Why(step=path, type=step.kind, verdict="skipped", reason="`when` is false")
                )
                self._merge(level, entry.skipped(attempt, WHEN_FALSE))
                return level.after(step, SUCCESS)
            prepare(attempt, node.templates)
            result = await self._result(node, attempt, level)
        except CallError as error:
            self._runs(level, step, path, f"it will fail: {error.message}")
            return level.after(step, SUCCESS)
        if result is None:
            self._unknown(level, step, path)
            return level.after(step, SUCCESS)
        decision = await decide(_judged(attempt, result), result)
        update = entry.finished(attempt, result, decision, 0.0, Spent())
        self._merge(level, update)
        return level.after(step, decision.event)

    async def _result(self, node: StepNode, attempt: Attempt, level: _Level) -> CallResult | None:
        """The result that the step would have; None if it runs, or something in it does."""
        step = node.step
        if step.foreach is not None:
            return await self._items(node, attempt, level)
        if step.kind == "set":
            return await name_values(attempt)
        if step.kind == "parallel":
            return await self._block(node, attempt, level)
        if step.kind == "steps" and step.chain is not None:
            outer = Outer(attempt.scope, attempt.flow)
            context = replace(level.context, outer=outer)
            return await self._inner(step.chain, {}, context, attempt, level)
        if step.plan is not None:
            context, kept = level.context.with_inputs(given_inputs(step.plan, attempt.inputs))
            given = {name: self._deps.outputs.put(value) for name, value in kept.items()}
            return await self._inner(step.plan, given, replace(context, outer=None), attempt, level)
        why, result = await self._leaf(attempt)
        self.found.append(why)
        return result

    async def _inner(
        self,
        plan: Plan,
        inputs: Mapping[str, Any],
        context: RunContext,
        attempt: Attempt,
        level: _Level,
    ) -> CallResult | None:
        state = initial_state(inputs, prefix=f"{attempt.path}/")
        outer = level if plan is attempt.step.chain else None
        after = await self.plan(plan, state, context, outer)
        if after is None:
            return None
        return CallResult(outputs=outputs_at_end(plan, after, self._deps))

    async def _block(self, node: StepNode, attempt: Attempt, level: _Level) -> CallResult | None:
        inner = _Level(level.plan, level.context, state_inside(attempt))
        inner.unknown, inner.values = dict(level.unknown), dict(level.values)
        block, members = node.step, frozenset(step.name for step in node.step.steps)
        before = dict(inner.state.get("steps", {}))
        for step in block.steps:
            inner.state["steps"] = before | {
                n: r for n, r in inner.state.get("steps", {}).items() if n in members
            }
            await self._step(bare_node(level.plan, step, self._deps, members), inner)
        records = inner.state.get("steps", {})
        level.unknown |= {n: s for n, s in inner.unknown.items() if n in members}
        if any(name in inner.unknown or name not in records for name in members):
            for name in members - set(inner.unknown):
                level.state["steps"] = {**level.state.get("steps", {}), name: records[name]}
            return None
        attempt.records = {name: records[name] for name in sorted(members)}
        store = self._deps.outputs
        outputs = {s.name: store.get(records[s.name].get("outputs", {})) for s in block.steps}
        return CallResult(outputs=outputs, matched=DEFAULT_SUCCESS)

    async def _items(self, node: StepNode, attempt: Attempt, level: _Level) -> CallResult | None:
        """Look at each item of a foreach; what is in an item of several steps is not looked at."""
        step, counts = node.step, dict[str, int]()
        over = step.foreach
        assert over is not None  # noqa: S101 - the caller looked
        items, _ = chosen_items(over, step.when if is_per_item(step) else None, attempt)
        leaf, first = item_node(node), Why(step=attempt.path, type=step.kind, verdict="runs")
        results: list[CallResult] = []
        if step.kind in ("steps", "parallel", "plan"):
            reason = f"its {len(items)} items have steps, which are looked up when they run"
            self.found.append(replace(first, reason=reason, items={"runs": len(items)}))
            return None
        context = replace(
            level.context,
            item_scope=attempt.scope,
            item_flow=attempt.flow.for_items(over),
            item_path=attempt.path,
        )
        taken: Why | None = None
        for index, item in enumerate(items):
            state = ItemState(item=self._deps.outputs.put(item), index=index, total=len(items))
            each = AsItem(leaf, state, context).attempt({}, 1, None)
            prepare(each, leaf.templates)
            why, result = await self._leaf(each)
            counts[why.verdict] = counts.get(why.verdict, 0) + 1
            if result is not None:
                results.append(result)
                taken = why
            elif not first.reason:
                first = why
        whole = taken if taken is not None and len(results) == len(items) else first
        self.found.append(replace(whole, step=attempt.path, items=counts))
        if len(results) < len(items):
            return None
        outputs = [result.outputs for result in results]
        return CallResult(outputs=outputs, matched=DEFAULT_SUCCESS)

    async def _leaf(self, attempt: Attempt) -> tuple[Why, CallResult | None]:
        """Look up one step that makes a call."""
        step, cache = attempt.step, self._deps.cache
        base = Why(step=attempt.path, type=step.kind, verdict="runs")
        if cache is None or not cache.wants(attempt):
            return replace(base, reason=_not_wanted(step, cache)), None
        try:
            sought = await seek(attempt, cache)
        except NotKeyed as error:
            return replace(base, reason=f"not cacheable: {error}"), None
        except NoSuchFile as error:
            return replace(base, reason=f"it will fail: no file matches `{error}`"), None
        except StoreError as error:
            return replace(base, reason=f"not cacheable: {error.message}"), None
        entry = sought.entry
        if entry is None:
            return _difference(base, sought, cache.store, attempt.context.start_dir), None
        attempt.scope = {**attempt.scope, **entry.result.get("scope", {})}
        result = result_in(entry.result)
        decision = await decide(_judged(attempt, result), result)
        known = replace(base, run=entry.run, at=entry.at)
        if decision.outcome != "success":
            return replace(known, reason=f"it would fail with that result: {decision.reason}"), None
        return replace(known, verdict="taken over"), result

    def _runs(self, level: _Level, step: Step, path: str, reason: str) -> None:
        self.found.append(Why(step=path, type=step.kind, verdict="runs", reason=reason))
        for inner in step.steps:
            self._runs(level, inner, f"{path}/{inner.name}", reason)
        self._unknown(level, step, path)

    def _unknown(self, level: _Level, step: Step, path: str) -> None:
        level.unknown[step.name] = path
        level.values |= dict.fromkeys(step.value_names, path)
        level.state["last"] = step.name

    def _merge(self, level: _Level, update: PlanState) -> None:
        merged: dict[str, Any] = {**level.state, **update}
        for name in ("steps", "values", "value_sources"):
            if name in update:
                merged[name] = {**level.state.get(name, {}), **merged[name]}
        level.state = PlanState(**merged)


def _judged(attempt: Attempt, result: CallResult) -> Attempt:
    """The attempt for a decision that asks no model: without a known verdict, none is needed."""
    if attempt.step.judge and result.verdict is None:
        attempt.step = replace(attempt.step, judge=False)
    return attempt


def _not_wanted(step: Step, cache: ResultCache | None) -> str:
    """Why a step is not looked up."""
    if cache is None:
        return "--no-cache"
    if step.cache is not None and not step.cache.on:
        return "it says `cache: false`"
    if step.kind in ("ask", "wait"):
        return "it waits for an answer or a time"
    if step.kind == "plan":
        return "its steps are drafted when it runs"
    if step.until is not None:
        return "it says `until`"
    if step.job is not None and step.job.array is not None:
        return "not cacheable: the elements of an array are submitted together"
    return "it does not say `cache`"


def _difference(base: Why, sought: Sought, store: CacheStore, start: Path) -> Why:
    """The nearest result of another key, and how that differs.

    Args:
        start: The directory of the run: files in it are named relative to it.
    """
    nearest: Entry | None = None
    names: list[str] = []
    least: tuple[int, int] | None = None
    for entry in store.near(sought.group):
        parts = {**entry.parts, **sought.parts}
        differ = [n for n in parts if entry.parts.get(n) != sought.parts.get(n)]
        rank = (len(differ), int(entry.step != base.step))
        if least is None or rank < least:
            nearest, names, least = entry, differ, rank
    if nearest is None:
        return replace(base, reason="nothing equal is known")
    known = replace(base, run=nearest.run, at=nearest.at)
    if not names:
        reason = f"a file of the result of run {nearest.run} was changed or removed"
        return replace(known, reason=reason)
    names.sort(key=_rank)
    first, more = names[0], len(names) - 1
    here, there = first in sought.parts, first in nearest.parts
    verb = "differs from" if here and there else "is not in" if here else "is missing, unlike in"
    others = f" and {more} more" if more else ""
    first = first.replace(f"`{start}/", "`")
    words = WORDS.get(first, f"the {first}" if first.startswith("server's") else first)
    reason = f"{words}{others} {verb if not more else 'differ from'} run {nearest.run}"
    return replace(known, reason=reason, differs=tuple(names))


def _rank(name: str) -> tuple[int, str]:
    place = next((i for i, start in enumerate(ORDER) if name.startswith(start)), len(ORDER))
    return place, name
