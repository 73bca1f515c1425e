"""At a step: take over the result of an equal step of an earlier run, or keep the own one.

A step is looked up if it says `cache`, or if the run takes over what it can (``--reuse``). The
order at such a step:

1. Look up: make its key (`fractale.graph.reuse_key`) and look for a result. If there is none, take
   the lock of the key. A process that computes the same has the lock; its result is waited for.
2. Take over: the result counts as the step's own. Its rules, its `output_schema` and its
   transitions are evaluated anew. If the step then fails, its call is made after all.
3. Keep: after a success, the result is kept under the key with the files as they are then. A file
   that the step made is part of the key, so that it must be there for the result to be taken over.
   If a file that existed before was changed meanwhile, nothing is kept.

The look-up is a call in the journal: a resume and a replay decide as the run did. A step that is
entered again in the same run makes its call: the run comes back because it wants something new.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, cast

from fractale.code_files import checksum
from fractale.errors import StoreError, TemplateError
from fractale.evidence import Notice
from fractale.graph.call import Attempt, once
from fractale.graph.context import LOOK, ResultCache
from fractale.graph.kinds.tool import QuietCodec
from fractale.graph.outcome import CallResult, Decision, decide, decide_by_evidence
from fractale.graph.reuse_key import (
    FOLDER,
    KeyParts,
    NoSuchFile,
    NotKeyed,
    made_of,
    parts_of,
)
from fractale.policy import from_data, to_data
from fractale.store.cache import CachedResult, CacheStore, KeyLock
from fractale.store.journal import Call, digest_of
from fractale.toolbox import ToolResult

FIRST_PAUSE: Final = 0.01
LONGEST_PAUSE: Final = 0.5
"""Seconds between two looks for a result that another process computes."""

OUTPUT_FILES: Final = ("outputs", "files")
"""The last directories of a file that a run keeps of an answer."""


@dataclass(slots=True, kw_only=True)
class Reuse:
    """One look-up.

    Args:
        result: The result that was taken over; None: the step makes its call.
        parts: Name → hash of each part of the key; empty if the step has no key.
        files: Path → checksum of the files that were named, before the call.
        lock: Held while the step computes what others may wait for.
    """

    attempt: Attempt
    cache: ResultCache
    group: str = ""
    parts: Mapping[str, str] = field(default_factory=dict[str, str])
    files: Mapping[str, str] = field(default_factory=dict[str, str])
    result: CallResult | None = None
    source: Mapping[str, Any] = field(default_factory=dict[str, Any])
    lock: KeyLock | None = None
    names: frozenset[str] = frozenset()

    async def keep(self, result: CallResult, decision: Decision) -> None:
        """Keep the result of the step's call, if it is a success that others may take over."""
        may = self.cache.keeps and self.result is None and bool(self.parts)
        if not may or not _is_success(self.attempt, result, decision):
            return
        try:
            fault = await self._keep(result, decision)
        except (StoreError, OSError) as error:
            fault = str(error)
        if fault and self.attempt.step.cache is not None:
            _warn(self.attempt, f"its result was not kept: {fault}")

    async def _keep(self, result: CallResult, decision: Decision) -> str:
        """Keep the result; returns why that was not done, or nothing."""
        attempt, store = self.attempt, self.cache.store
        data = _as_data(attempt, result, decision, self.names)
        if attempt.context.mask(data) != data:
            return "there is a secret in it"
        try:
            after = await _parts(attempt, self.cache)
            made = await made_of(attempt, after, data["outputs"], store.path.parent)
        except (NotKeyed, NoSuchFile) as fault:
            return str(fault)
        if changed := [f for f, found in self.files.items() if after.files.get(f) != found]:
            return f"`{changed[0]}` was changed while it ran"
        hashed = _hashed(after, store)
        known = {f"file `{path}`" for path in after.files}
        if any(hashed.get(n) != h for n, h in self.parts.items() if n not in known):
            return "its tool or its environment was changed while it ran"
        context = attempt.context
        entry = CachedResult(
            key=store.key_of(hashed),
            group=self.group,
            run=context.run_id,
            plan=context.plan_name,
            step=attempt.path,
            at=time.time(),
            parts=hashed,
            result=data,
            files=made,
        )
        kept = await asyncio.to_thread(store.keep, entry)
        return "" if kept else "it is too large"

    def release(self) -> None:
        """Let others compute the same result."""
        if self.lock is not None:
            self.lock.release()
            self.lock = None


def _is_success(attempt: Attempt, result: CallResult, decision: Decision) -> bool:
    """Whether nothing speaks of a failure, neither the decision nor the call itself."""
    evidence = decide_by_evidence(attempt.step, result)
    return decision.outcome == "success" and evidence is None and result.conversation is None


def _warn(attempt: Attempt, words: str) -> None:
    """Report once per step that its `cache` has no effect."""
    if attempt.scope.get("index", 0) == 0:
        attempt.warn("not-cached", words)


# Looking up


async def look_up(attempt: Attempt) -> Reuse:
    """Look for the result of an equal step.

    Raises:
        TemplateError: A pattern of `cache.files` matches nothing.
    """
    cache = attempt.deps.cache
    assert cache is not None  # noqa: S101 - the caller asked it
    reuse = Reuse(attempt=attempt, cache=cache, names=frozenset(attempt.scope))

    async def make() -> ToolResult:
        return ToolResult(text="", structured=await _look(reuse))

    call = Call(kind="tool", name=LOOK, digest=digest_of(attempt.path), safe=True)
    site = attempt.journal.next_site(part="cache")
    try:
        answer = await once(attempt, site, call, make, QuietCodec(attempt))
        await _read(reuse, cast("Mapping[str, Any]", answer.structured))
    except BaseException:
        reuse.release()
        raise
    return reuse


async def _read(reuse: Reuse, found: Mapping[str, Any]) -> None:
    """Read what a look-up found, now or in an earlier process of the run.

    Raises:
        TemplateError: A pattern of `cache.files` matches nothing.
    """
    attempt = reuse.attempt
    if missing := found.get("missing"):
        message = f"no file matches `{missing}`, which `cache` names"
        raise TemplateError(message, position=attempt.step.where("cache"))
    if (why := found.get("not")) and attempt.step.cache is not None:
        _warn(attempt, f"`cache` has no effect: {why}")
    reuse.group = str(found.get("group", ""))
    reuse.parts, reuse.files = found.get("parts") or {}, found.get("files") or {}
    if found.get("taken"):
        await _take(reuse, found["taken"], found["source"])


@dataclass(frozen=True, slots=True)
class Sought:
    """The key of a step, and the result that may be taken over.

    Args:
        group: The hash of the kind of step and what it calls.
        parts: Name → hash of each part of the key.
        files: Path → checksum of the files that the step names.
        entry: The result; None: there is none, or its files were changed.
    """

    group: str
    parts: Mapping[str, str]
    files: Mapping[str, str]
    entry: CachedResult | None


async def seek(attempt: Attempt, cache: ResultCache) -> Sought:
    """Look for a result without waiting for one.

    Raises:
        NotKeyed: The step has no key.
        NoSuchFile: A pattern of `cache.files` matches nothing.
        StoreError: The results cannot be read.
    """
    parts = await _parts(attempt, cache)
    hashed = _hashed(parts, cache.store)
    group = cache.store.hash_of(parts.group)
    entry = await asyncio.to_thread(usable, cache.store, group, hashed)
    return Sought(group, hashed, parts.files, entry)


async def _look(reuse: Reuse) -> dict[str, Any]:
    attempt, cache = reuse.attempt, reuse.cache
    try:
        sought = await seek(attempt, cache)
        known = {"group": sought.group, "parts": sought.parts, "files": sought.files}
        entry = sought.entry
        if entry is None:
            entry, again = await _wait(reuse, sought.group, sought.parts)
            known |= again
    except NoSuchFile as fault:
        return {"missing": str(fault)}
    except NotKeyed as fault:
        return {"not": str(fault)}
    except StoreError as error:
        return {"not": str(error)}
    if entry is None:
        return known
    taken = await asyncio.to_thread(_brought, attempt, entry)
    source = {"run": entry.run, "step": entry.step, "key": entry.key, "at": entry.at}
    return {**known, "taken": attempt.deps.outputs.put(taken), "source": source}


async def _wait(
    reuse: Reuse, group: str, hashed: Mapping[str, str]
) -> tuple[CachedResult | None, dict[str, Any]]:
    """Take the lock of a key, or wait for the result of the process that has it.

    If that process ends without a result, all that have waited compute at the same time.

    Returns:
        The result, if there is one then; and the new parts, since the other process may have made
        files.
    """
    attempt, store = reuse.attempt, reuse.cache.store
    lock, pause, again = store.lock(store.key_of(hashed)), FIRST_PAUSE, dict[str, Any]()
    waited = False
    while not await asyncio.to_thread(lock.try_acquire):
        waited = True
        await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - spreads load
        pause = min(pause * 1.5, LONGEST_PAUSE)
    try:
        if waited:
            parts = await _parts(attempt, reuse.cache)
            hashed = _hashed(parts, store)
            again = {"parts": hashed, "files": parts.files}
        entry = await asyncio.to_thread(usable, store, group, hashed)
    except BaseException:
        lock.release()
        raise
    if entry is not None or waited:
        lock.release()
    else:
        reuse.lock = lock
    return entry, again


async def _parts(attempt: Attempt, cache: ResultCache) -> KeyParts:
    declared = attempt.step.cache is not None
    return await parts_of(attempt, declared=declared, state_dir=cache.store.path.parent)


def _hashed(parts: KeyParts, store: CacheStore) -> dict[str, str]:
    found = parts.all(store.path.parent)
    return {name: store.hash_of(value) for name, value in sorted(found.items())}


def usable(store: CacheStore, group: str, hashed: Mapping[str, str]) -> CachedResult | None:
    """The result of a key, if the files that it names are still as it left them."""
    entry = store.find(group, store.key_of(hashed))
    if entry is None or any(_sum(Path(p)) != found for p, found in entry.files.items()):
        return None
    return entry


# Taking over


async def _take(reuse: Reuse, taken: Any, source: Mapping[str, Any]) -> None:
    """Let a result count as the step's own, unless the step would fail with it."""
    attempt = reuse.attempt
    data = cast("Mapping[str, Any]", attempt.deps.outputs.get(taken))
    result = result_in(data)
    before = attempt.scope
    attempt.scope = {**attempt.scope, **data.get("scope", {})}
    decision = await decide(attempt, result)
    if decision.outcome != "success":
        attempt.scope = before
        return
    attempt.seen.add(from_data(data.get("sources")))
    attempt.reused = {k: v for k, v in source.items() if k != "at"}
    reuse.result, reuse.source = result, source


def result_in(data: Mapping[str, Any]) -> CallResult:
    """The result that `_as_data` made JSON of."""
    verdict = data.get("verdict")
    return CallResult(
        outputs=data["outputs"],
        text=data["text"],
        misfit=data.get("misfit"),
        notices=tuple(Notice(**each) for each in data.get("notices", ())),
        verdict=Decision(**verdict) if verdict else None,
        is_evidence=data.get("is_evidence", True),
    )


def _as_data(
    attempt: Attempt, result: CallResult, decision: Decision, names: frozenset[str]
) -> dict[str, Any]:
    """A result as JSON.

    Args:
        names: Those that the step's rules could see before the call. The call may have added some.
    """
    judged = decision.decided_by == "judge"
    return {
        "outputs": result.outputs,
        "text": result.text,
        "misfit": result.misfit,
        "notices": [dict(each) for each in result.notices],
        "is_evidence": result.is_evidence,
        "sources": to_data(attempt.seen.sources),
        "scope": {name: value for name, value in attempt.scope.items() if name not in names},
        "verdict": _verdict(decision) if judged else None,
    }


def _verdict(decision: Decision) -> dict[str, str]:
    return {
        "outcome": decision.outcome,
        "event": decision.event,
        "decided_by": decision.decided_by,
        "reason": decision.reason,
    }


def _brought(attempt: Attempt, entry: CachedResult) -> dict[str, Any]:
    """The result of an entry, with the files of its answer copied to the outputs of this run.

    The run that it came from may be removed.
    """
    copies: dict[str, str] = {}
    for name in entry.files:
        path = Path(name)
        if path.parts[-3:-1] == OUTPUT_FILES and path.is_file():
            own = attempt.deps.outputs.put_file(path.read_bytes(), path.suffix)
            if own is not None:
                copies[name] = str(own)
    return cast("dict[str, Any]", _replaced(entry.result, copies))


def _replaced(value: Any, copies: Mapping[str, str]) -> Any:
    if isinstance(value, str):
        return copies.get(value, value)
    if isinstance(value, Mapping):
        table = cast("Mapping[str, Any]", value)
        return {key: _replaced(each, copies) for key, each in table.items()}
    if isinstance(value, list):
        return [_replaced(each, copies) for each in cast("list[Any]", value)]
    return value


def _sum(path: Path) -> str:
    """What `made_of` returns for a path; empty if there is nothing."""
    try:
        if path.is_dir():
            return f"a link to {path.readlink()}" if path.is_symlink() else FOLDER
        return checksum(path)
    except OSError:
        return ""
