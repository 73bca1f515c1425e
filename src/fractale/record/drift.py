"""What differs between a run and an earlier one, beside what happened: the causes, not the effects.

`drift_between` compares the plan, the inputs, and everything that the records say the runs ran
with (`fractale.record.conditions`). Things that a record lacks are not known, and never taken for
equal.
"""

from __future__ import annotations

import glob
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final, cast

import yaml

from fractale.errors import NotRecorded, UsageError
from fractale.plan.paths import without_indexes
from fractale.record.conditions import read_conditions
from fractale.record.diff import ValueChange, changes
from fractale.record.history import RecordedAttempt, RunHistory, input_values
from fractale.record.plans import plan_file
from fractale.record.snapshot import read_snapshot
from fractale.store.index import RunFilter, list_runs
from fractale.store.run_record import RunRecord
from fractale.text import did_you_mean

AREAS: Final = (
    *("plan", "inputs", "own code", "files", "modules", "packages", "programs", "environment"),
    *("tool definitions", "servers", "prompts", "model", "settings", "registries", "site"),
)
"""The things that are compared, in the order of likely causes of another result."""

OF_MODULES: Final = ("LOADEDMODULES", "_LMFILES_")
"""The variables that are compared as modules."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Drifted:
    """One thing that differs.

    Args:
        what: Such as ``input `n``` or ``file `mesh.dat```.
        before: Its value in the earlier run, as JSON; None if it had none, or only its checksum is
            recorded.
        now: The same of the later run.
        how: In a few words, for what has no values: ``its content``.
    """

    what: str
    before: Any = None
    now: Any = None
    how: str = ""


@dataclass(slots=True, kw_only=True)
class Area:
    """One thing that was compared, such as the plan.

    Args:
        name: One of `AREAS`.
        differences: The likely cause first.
        unknown: What could not be compared, as text.
    """

    name: str
    differences: list[Drifted] = field(default_factory=list[Drifted])
    unknown: list[str] = field(default_factory=list[str])


@dataclass(slots=True, kw_only=True)
class Drift:
    """What differs between two runs, in the order of `AREAS`."""

    now: RunHistory
    before: RunHistory
    areas: list[Area]

    @property
    def differing(self) -> list[Area]:
        return [area for area in self.areas if area.differences]

    @property
    def unknown(self) -> list[Area]:
        return [area for area in self.areas if area.unknown]


# The earlier run


def earlier_success(history: RunHistory) -> RunRecord | None:
    """The latest success of the same plan that began before a run; None if there is none.

    A plan is the same if its file is; if no run of that file succeeded, if its name is.

    Raises:
        StoreError: The index of runs cannot be used.
    """
    record, head = history.record, history.head
    return success_before(record, head, history.started)


def success_before(
    record: RunRecord, head: Mapping[str, Any], started: float | None = None
) -> RunRecord | None:
    """As `earlier_success`, by the head of the run's record."""
    if len(list(record.path.parent.glob("*"))) < 2:
        return None
    until = float(head.get("started") or 0.0) if started is None else started
    name = glob.escape(str(head.get("plan") or ""))
    found = list_runs(record.state_dir, RunFilter(plan=name, status=("success",), until=until))
    rows = [row for row in found if row.id != record.run_id]
    same = [row for row in rows if row.file == head.get("file")]
    return record.sibling((same or rows)[0].id) if rows else None


def no_earlier_success(history: RunHistory) -> UsageError:
    """The error for a run without an earlier success of the same plan."""
    plan = str(history.head.get("plan"))
    rows = list_runs(history.record.state_dir, RunFilter(status=("success",)), limit=50)
    near = did_you_mean(plan, [row.plan for row in rows if row.plan != plan], otherwise="")
    return UsageError(
        f"no run of the plan `{plan}` before {history.run} succeeded{near}",
        hint=f"name a run to compare with: fractale why {history.run} --since RUN",
    )


# Comparing


def drift_between(now: RunHistory, before: RunHistory) -> Drift:
    """Everything that differs between a run and an earlier one."""
    areas = {name: Area(name=name) for name in AREAS}
    _plans(areas["plan"], now, before)
    _settings(areas, now, before)
    _snapshots(areas["model"], now, before)
    _read(areas, now, before)
    _definitions(areas["tool definitions"], now, before)
    _jobs(areas["site"], now, before)
    pair = [_conditions(history, areas) for history in (now, before)]
    ours, theirs = pair
    if ours is not None and theirs is not None:
        _of_conditions(areas, ours, theirs)
    _inputs(areas["inputs"], now, before, ours, theirs)
    return Drift(now=now, before=before, areas=list(areas.values()))


OF_CONDITIONS: Final = (
    *("own code", "modules", "packages", "environment", "servers", "prompts", "registries", "site"),
)


def _conditions(history: RunHistory, areas: Mapping[str, Area]) -> dict[str, Any] | None:
    try:
        return read_conditions(history.record)
    except NotRecorded as error:
        for name in OF_CONDITIONS:
            areas[name].unknown.append(error.message)
        return None


def _table(value: Any) -> dict[str, Any]:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def _keys(now: Mapping[str, Any], before: Mapping[str, Any]) -> Iterator[str]:
    """The keys whose values differ."""
    for key in dict.fromkeys([*before, *now]):
        if (key in now, now.get(key)) != (key in before, before.get(key)):
            yield key


def _plans(area: Area, now: RunHistory, before: RunHistory) -> None:
    if now.head.get("plan_hash") == before.head.get("plan_hash"):
        return
    texts = [_plan_data(history) for history in (now, before)]
    ours, theirs = texts
    found = list(_of_plan(theirs, ours)) if ours is not None and theirs is not None else []
    area.differences += found or [Drifted(what="the plan, or one that it includes", how="text")]


def _plan_data(history: RunHistory) -> Any:
    file = plan_file(history.record, history.head)
    if file is None:
        return None
    files = [file, *sorted(history.record.included_plans.rglob("*.yaml"))]
    try:
        texts = {each.name: yaml.safe_load(each.read_text(encoding="utf-8")) for each in files}
    except (OSError, ValueError, yaml.YAMLError):
        return None
    own = texts.pop(file.name)
    return {**_table(own), **{f"plan `{name}`": text for name, text in texts.items()}}


def _of_plan(before: Any, now: Any) -> Iterator[Drifted]:
    """The places in a plan that differ; a step is named by its name."""
    for change in changes(_by_name(before), _by_name(now)):
        a, b = (None if change.missing == side else value for side, value in _sides(change))
        yield Drifted(what=f"`{change.path}`", before=a, now=b, how=_how(change))


def _sides(change: ValueChange) -> tuple[tuple[str, Any], tuple[str, Any]]:
    return ("a", change.a), ("b", change.b)


def _how(change: ValueChange) -> str:
    return {"a": "added", "b": "removed"}.get(change.missing, "")


def _by_name(value: Any) -> Any:
    """A plan's data with lists of named things as tables, so that one that moved is found."""
    if isinstance(value, dict):
        return {k: _by_name(v) for k, v in cast("dict[str, Any]", value).items()}
    if isinstance(value, list):
        items = cast("list[Any]", value)
        names = [str(_table(item).get("name", "")) for item in items]
        if items and all(names) and len(set(names)) == len(names):
            tables = {n: _by_name(item) for n, item in zip(names, items, strict=True)}
            return {**tables, "order": ", ".join(names)}
        return [_by_name(item) for item in items]
    return value


def _inputs(
    area: Area,
    now: RunHistory,
    before: RunHistory,
    ours: Mapping[str, Any] | None,
    theirs: Mapping[str, Any] | None,
) -> None:
    for change in changes(input_values(before), input_values(now)):
        area.differences.append(
            Drifted(what=f"`{change.path}`", before=change.a, now=change.b, how=_how(change))
        )
    if ours is None or theirs is None:
        return
    secret, then = _table(ours.get("secret_inputs")), _table(theirs.get("secret_inputs"))
    if not (secret or then):
        return
    if ours.get("key") != theirs.get("key"):
        area.unknown.append("the secret inputs: their checksums have different keys")
        return
    for name in _keys(secret, then):
        area.differences.append(Drifted(what=f"secret `{name}`", how="another value"))


def _settings(areas: Mapping[str, Area], now: RunHistory, before: RunHistory) -> None:
    ours, theirs = (_table(h.head.get("settings")) for h in (now, before))
    if not (ours and theirs):
        missing = now if not ours else before
        areas["settings"].unknown.append(f"the record of run {missing.run} has no settings")
        return
    for change in changes(theirs, ours):
        model = change.path.startswith(("models", "fallback_models"))
        areas["model" if model else "settings"].differences.append(
            Drifted(what=f"`{change.path}`", before=change.a, now=change.b, how=_how(change))
        )
    limits = [_limits(history) for history in (before, now)]
    for change in changes(limits[0], limits[1]):
        areas["settings"].differences.append(
            Drifted(what=f"limit `{change.path}`", before=change.a, now=change.b)
        )


def _limits(history: RunHistory) -> dict[str, Any]:
    return dict(history.processes[0].limits) if history.processes else {}


def _snapshots(area: Area, now: RunHistory, before: RunHistory) -> None:
    """The models that answered, as their servers named them."""
    ours, theirs = (_answered(history) for history in (now, before))
    for spec in ours.keys() | theirs.keys():
        if spec not in ours or spec not in theirs:
            continue  # another way through the plan, or another model: compared elsewhere
        one, other = ours[spec], theirs[spec]
        if not (one and other):
            area.unknown.append(f"the version of `{spec}`: its server did not name it")
        elif one != other:
            area.differences.append(
                Drifted(what=f"version of `{spec}`", before=", ".join(other), now=", ".join(one))
            )


def _answered(history: RunHistory) -> dict[str, list[str]]:
    found: dict[str, set[str]] = {}
    for call in history.calls():
        if call.kind == "model" and call.finished and not call.is_error:
            found.setdefault(call.name, set()).update([call.snapshot] if call.snapshot else [])
    return {name: sorted(snapshots) for name, snapshots in found.items()}


# Files and programs


def _read(areas: Mapping[str, Area], now: RunHistory, before: RunHistory) -> None:
    keys = [_key_of(history) for history in (now, before)]
    for part, what in (("files", "file"), ("programs", "program"), ("prompts", "prompt")):
        ours, theirs = (_stamps(history, part) for history in (now, before))
        steps = {step for step, _ in ours} & {step for step, _ in theirs}
        said: set[str] = set()
        for step, name in dict.fromkeys([*theirs, *ours]):
            if name in said or (step not in steps and not _was_there(step, now, before)):
                continue
            a, b = theirs.get((step, name)), ours.get((step, name))
            if a == b:
                continue
            said.add(name)
            _compare_stamps(areas[part], f"{what} `{name}` of `{step}`", a, b, keys[0] == keys[1])


def _key_of(history: RunHistory) -> Any:
    try:
        return read_conditions(history.record).get("key")
    except NotRecorded:
        return str(history.record.state_dir)


def _was_there(step: str, now: RunHistory, before: RunHistory) -> bool:
    """Whether both runs finished a step."""

    def has(history: RunHistory) -> bool:
        return any(
            without_indexes(each.path) == step and each.outcome is not None
            for each in history.attempts
        )

    return has(now) and has(before)


def _stamps(history: RunHistory, part: str) -> dict[tuple[str, str], Sequence[Any]]:
    """Step and name → the stamp of a file or a program, as the first attempt to name it saw it."""
    found: dict[tuple[str, str], Sequence[Any]] = {}
    for attempt in history.attempts:
        step = without_indexes(attempt.path)
        for read in _reads(attempt):
            for name, known in _table(read.get(part)).items():
                found.setdefault((step, name), known)
    return found


def _reads(attempt: RecordedAttempt) -> Iterator[Mapping[str, Any]]:
    yield attempt.read
    for index in sorted(attempt.items):
        yield attempt.items[index].read


def _compare_stamps(
    area: Area, what: str, a: Sequence[Any] | None, b: Sequence[Any] | None, comparable: bool
) -> None:
    """Compare two stamps: ``[size, time, checksum]``, of a program also its path."""
    if a is None or b is None:
        how = "is there now, and was not" if a is None else "is not there, or not named, any more"
        area.differences.append(Drifted(what=what, how=how))
    elif a[3:] != b[3:]:
        area.differences.append(
            Drifted(what=what, before=next(iter(a[3:]), None), now=next(iter(b[3:]), None))
        )
    elif a[0] != b[0]:
        difference = Drifted(
            what=what, before=f"{a[0]:,} bytes", now=f"{b[0]:,} bytes", how="its content"
        )
        area.differences.append(difference)
    elif not comparable:
        area.unknown.append(f"{what}: the checksums have different keys")
    elif a[2] != b[2]:
        area.differences.append(Drifted(what=what, how=f"its content, of {a[0]:,} bytes"))
    else:
        area.unknown.append(
            f"{what}: it was written again; only its size and its two ends were compared"
        )


# Tools, servers, jobs


def _definitions(area: Area, now: RunHistory, before: RunHistory) -> None:
    try:
        ours, theirs = (
            {tool.qualified_name: tool for tool in read_snapshot(h.record).tools}
            for h in (now, before)
        )
    except NotRecorded as error:
        area.unknown.append(error.message)
        return
    from fractale.pins import change_between

    for name, tool in ours.items():
        then = theirs.get(name)
        if then is None or then.definition == tool.definition:
            continue
        parts = change_between(then.described, tool).parts
        single = {"description": (then.description, tool.description)}.get(parts[0])
        a, b = single if single else (None, None)
        area.differences.append(Drifted(what=f"`{name}`", before=a, now=b, how=", ".join(parts)))
    bound = [_table(_table(h.head.get("bindings")).get("names")) for h in (now, before)]
    for name in _keys(*bound):
        if name in bound[0] and name in bound[1]:
            area.differences.append(
                Drifted(what=f"what `{name}` means", before=bound[1][name], now=bound[0][name])
            )


def _jobs(area: Area, now: RunHistory, before: RunHistory) -> None:
    """Where the first job of each step ran."""
    ours, theirs = (
        {without_indexes(each.step): each for a in reversed(h.attempts) for each in a.jobs}
        for h in (now, before)
    )
    for step, job in ours.items():
        then = theirs.get(step)
        if then is None:
            continue
        for what in ("scheduler", "nodes"):
            a, b = getattr(then, what), getattr(job, what)
            if a != b and a and b:
                area.differences.append(Drifted(what=f"{what} of job `{step}`", before=a, now=b))


# Conditions


def _of_conditions(
    areas: Mapping[str, Area], ours: Mapping[str, Any], theirs: Mapping[str, Any]
) -> None:
    def tables(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
        return _table(ours.get(name)), _table(theirs.get(name))

    comparable = ours.get("key") == theirs.get("key")
    _tools(areas, *tables("tools"), comparable=comparable)
    _modules(areas["modules"], *tables("shown"))
    _packages(areas["packages"], ours, theirs)
    if comparable:
        _environment(areas["environment"], ours, theirs)
        for path in _keys(*tables("registries")):
            now, before = tables("registries")
            how = "added" if path not in before else "removed" if path not in now else "its content"
            areas["registries"].differences.append(Drifted(what=f"`{path}`", how=how))
    else:
        words = (
            "the checksums have different keys: another state directory, or its cache was removed"
        )
        for name in ("environment", "registries"):
            areas[name].unknown.append(words)
    for name, what in (("agents", "prompts"), ("models", "model"), ("site", "site")):
        now, before = tables(name)
        for change in changes(before, now):
            areas[what].differences.append(
                Drifted(what=f"`{change.path}`", before=change.a, now=change.b, how=_how(change))
            )


def _tools(
    areas: Mapping[str, Area],
    ours: Mapping[str, Any],
    theirs: Mapping[str, Any],
    *,
    comparable: bool,
) -> None:
    """Compare what works when the tools of the plan are called."""
    files: dict[str, Drifted] = {}
    servers: dict[tuple[str, str], Drifted] = {}
    for tool in ours.keys() & theirs.keys():
        now, before = dict(_table(ours[tool])), dict(_table(theirs[tool]))
        for side in (now, before):
            if (why := side.pop("unknown", "")) and f"`{tool}`: {why}" not in (
                areas["own code"].unknown
            ):
                areas["own code"].unknown.append(f"`{tool}`: {why}")
        codes = now.pop("code", None), before.pop("code", None)
        _code(areas, tool, *codes, files=files)
        variables = _table(now.pop("environment", None)), _table(before.pop("environment", None))
        for name in _keys(*variables) if comparable else ():
            if name in OF_MODULES:
                continue
            what = f"`{name}` of the server of `{tool}`"
            if not any(f"`{name}`" in d.what for d in areas["environment"].differences):
                areas["environment"].differences.append(Drifted(what=what, how="another value"))
        for change in changes(before, now):
            server = tool.partition(".")[0]
            servers.setdefault(
                (server, change.path),
                Drifted(
                    what=f"{change.path.partition('[')[0]} of `{server}`",
                    before=change.a,
                    now=change.b,
                    how=_how(change),
                ),
            )
    areas["own code"].differences += files.values()
    areas["servers"].differences += servers.values()


def _code(
    areas: Mapping[str, Area],
    tool: str,
    now: Any,
    before: Any,
    *,
    files: dict[str, Drifted],
) -> None:
    if now == before or now is None or before is None:
        return
    ours, theirs = _table(_table(now).get("files")), _table(_table(before).get("files"))
    for path in _keys(ours, theirs):
        how = "is new" if path not in theirs else "is gone" if path not in ours else "its content"
        files.setdefault(path, Drifted(what=f"`{path}` of `{tool}`", how=how))
    packages = _table(_table(now).get("packages")), _table(_table(before).get("packages"))
    for name in _keys(*packages):
        a, b = (each.get(name) for each in reversed(packages))
        if name == "object":
            files.setdefault(f"object {tool}", Drifted(what=f"`{tool}`", before=a, now=b))
        elif name != "python" and not any(
            d.what == f"`{name}`" for d in areas["packages"].differences
        ):
            areas["packages"].differences.append(Drifted(what=f"`{name}`", before=a, now=b))
    if not isinstance(now, dict) or not isinstance(before, dict):
        files.setdefault(tool, Drifted(what=f"`{tool}`", before=before, now=now))


def _modules(area: Area, ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> None:
    now, before = (
        list(filter(None, str(each.get("LOADEDMODULES") or "").split(":")))
        for each in (ours, theirs)
    )
    if now == before:
        return
    loaded = [name for name in now if name not in before]
    gone = [name for name in before if name not in now]
    if not (loaded or gone):
        area.differences.append(Drifted(what="their order", before=before, now=now))
    family = {name.rpartition("/")[0] or name: name for name in gone}
    for name in loaded:
        then = family.pop(name.rpartition("/")[0] or name, None)
        area.differences.append(Drifted(what="loaded", before=then, now=name))
    area.differences += [Drifted(what="loaded", before=name) for name in family.values()]


def _packages(area: Area, ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> None:
    for change in changes(_table(theirs.get("python")), _table(ours.get("python"))):
        what = "Python" if change.path == "version" else f"Python's {change.path}"
        area.differences.insert(0, Drifted(what=what, before=change.a, now=change.b))
    now, before = _table(ours.get("packages")), _table(theirs.get("packages"))
    known = {difference.what for difference in area.differences}
    for name in _keys(now, before):
        if f"`{name}`" not in known:
            area.differences.append(
                Drifted(what=f"`{name}`", before=before.get(name), now=now.get(name))
            )


def _environment(area: Area, ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> None:
    shown = [_table(each.get("shown")) for each in (theirs, ours)]
    found: list[Drifted] = []
    now, before = _table(ours.get("environment")), _table(theirs.get("environment"))
    for name in _keys(now, before):
        if name in OF_MODULES:
            continue
        how = "set now" if name not in before else "not set now" if name not in now else ""
        a, b = (each.get(name) for each in shown)
        words = how or ("" if name in shown[0] or name in shown[1] else "another value")
        found.append(Drifted(what=f"`{name}`", before=a, now=b, how=words))
    names = {difference.what for difference in found}
    area.differences[:] = found + [
        each for each in area.differences if each.what.partition(" of ")[0] not in names
    ]


# As JSON


def drift_data(drift: Drift) -> dict[str, Any]:
    """A comparison as JSON."""
    return {
        "run": drift.now.run,
        "since": drift.before.run,
        "status": {"run": drift.now.status, "since": drift.before.status},
        "differs": [area.name for area in drift.differing],
        "areas": [
            {
                "area": area.name,
                "state": "differs" if area.differences else "unknown" if area.unknown else "same",
                "differences": [
                    {k: v for k, v in asdict(each).items() if v not in (None, "")}
                    for each in area.differences
                ],
                "unknown": area.unknown,
            }
            for area in drift.areas
        ],
    }
