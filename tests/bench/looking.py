"""What looking costs: pages of many runs and of long ones, how soon an event is shown, viewers."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
from measure import SOURCE, Row, Sample, fractale, in_turns

sys.path.insert(0, str(SOURCE / "tests" / "support"))

from fractale.store.run_record import RunRecords
from made_runs import many_runs

MANY, FEW = 1_000, 10
STEPS = 60
"""Steps of a run that is watched."""
PAUSE = 0.05
"""Seconds that each of its tools takes: with its own work, some 15 events a second."""
VIEWERS = 5
TRIES = 7

REGISTRY = "tools:\n  - {path: looking_tools.pause, annotations: {readOnlyHint: true}}\n"
TOOLS = '''
import time

def pause(n: int = 0, seconds: float = 0) -> dict:
    """Take a moment."""
    time.sleep(seconds)
    return {"n": n, "returncode": 0}
'''


def looking_rows() -> Iterator[Row]:
    """The rows of `fractale web`."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        _write_files(folder)
        yield from _page_rows(folder)
        yield _event_row(folder)
        yield _viewers_row(folder)


def _write_files(folder: Path) -> None:
    (folder / "looking_tools.py").write_text(TOOLS)
    (folder / "tools.yaml").write_text(REGISTRY)
    for steps, seconds in ((FEW, 0), (STEPS, PAUSE), (MANY, 0)):
        given = f"seconds: {seconds}"
        lines = [f"  - {{name: s{i}, tool: pause, inputs: {{{given}}}}}" for i in range(steps)]
        plan = ["name: looked at", f"limits: {{steps: {steps + 1}}}", "steps:", *lines, ""]
        (folder / f"plan{steps}.yaml").write_text("\n".join(plan))


def _environment(state: Path) -> dict[str, str]:
    return {**os.environ, "FRACTALE_STATE_DIR": str(state), "FRACTALE_TRUST_PROJECT": "1"}


@contextmanager
def _serving(folder: Path, state: Path) -> Iterator[httpx.Client]:
    """`fractale web` on a state directory, and a client that has entered; ended by its own pid."""
    said = folder / f"{state.name}.txt"
    with said.open("w") as file:
        process = subprocess.Popen(
            fractale("web", "--no-browser"),
            cwd=folder,
            env=_environment(state),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
        )
    try:
        while not (found := re.search(r"http://\S+?/\?token=[\w-]+", said.read_text())):
            if process.poll() is not None:
                raise RuntimeError(f"the server did not start: {said.read_text()}")
            time.sleep(0.05)
        url = found[0].partition("/?")[0]
        with httpx.Client(base_url=url, follow_redirects=True, timeout=60) as client:
            client.get(found[0]).raise_for_status()
            yield client
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(timeout=20)


# -- pages ----------------------------------------------------------------------------------------


def _page_rows(folder: Path) -> Iterator[Row]:
    """The list and the pages of runs, against the same of 10 runs and 10 steps."""
    few, many, samples = (folder / name for name in ("few", "many", "samples"))
    made = [_start(folder, samples, f"sample{i}", FEW).wait(timeout=120) for i in range(3)]
    assert not any(made), made
    records = [RunRecords(samples).find(f"sample{i}") for i in range(3)]
    many_runs(few, records, FEW)
    many_runs(many, records, MANY)
    for name, steps in (("long", MANY), ("short", FEW)):
        code = _start(folder, many, name, steps).wait(timeout=600)
        assert code == 0, code
    with ExitStack() as stack:
        ours, peer = (stack.enter_context(_serving(folder, each)) for each in (many, few))

        async def measured() -> list[Sample]:
            pieces = [_get(ours, "/"), _get(peer, "/"), _get(ours, "/?state=failed")]
            pieces += [_get(ours, f"/runs/{name}") for name in ("long", "short")]
            return await in_turns(*pieces, tries=TRIES)

        lists, few_list, filtered, long, short = asyncio.run(measured())
    yield Row(
        "web: the list of 1,000 runs: seconds",
        f"{lists}",
        f"10 runs: {few_list}, {lists.over(few_list):.1f} times",
        lists.median,
        0.15,
    )
    what = "web: the list of the failed of 1,000: seconds"
    yield Row(what, f"{filtered}", f"10 runs: {few_list}", filtered.median, 0.15)
    yield Row(
        "web: the page of a run of 1,000 steps: seconds",
        f"{long}",
        f"10 steps: {short}, {long.over(short):.1f} times",
        long.median,
        0.3,
    )


def _get(client: httpx.Client, path: str) -> Callable[[], Awaitable[object]]:
    def get() -> None:
        client.get(path).raise_for_status()

    return lambda: asyncio.to_thread(get)


# -- events ---------------------------------------------------------------------------------------


def _event_row(folder: Path) -> Row:
    """How long after an event of a run the stream of its page has it, at the 95th percentile."""
    state = folder / "watched"
    with _serving(folder, state) as client:
        process = _start(folder, state, "watched")
        events = state / "runs" / "watched" / "events.jsonl"
        while not (events.exists() and "step_started" in events.read_text()):
            time.sleep(0.01)
        seen = _seen(client, "watched")
        process.wait(timeout=120)
    happened = {
        event["step"]: event["time"]
        for event in map(json.loads, events.read_text().splitlines())
        if event["event"] == "step_finished"
    }
    late = sorted(seen[step] - happened[step] for step in happened if step in seen)
    if len(late) < STEPS / 2:
        raise RuntimeError(f"only {len(late)} of {STEPS} steps were seen")
    p95 = late[int(len(late) * 0.95) - 1]
    what = "web: an event is on the page: seconds (95 of 100)"
    median = f"median {statistics.median(late) * 1000:.0f} ms, {len(late)} events"
    return Row(what, f"{p95 * 1000:.0f} ms", median, p95, 0.2)


def _start(folder: Path, state: Path, run_id: str, steps: int = STEPS) -> subprocess.Popen[bytes]:
    words = ["run", f"plan{steps}.yaml", "-r", "tools.yaml", "-q", "--run-id", run_id]
    return subprocess.Popen(
        fractale(*words),
        cwd=folder,
        env=_environment(state),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def _stream_of(client: httpx.Client, run_id: str) -> str:
    page = client.get(f"/runs/{run_id}").text
    found = re.search(r'hx-sse:connect="([^"]+)"', page)
    if found is None:
        raise RuntimeError("the page of the run has no stream")
    return found[1].replace("&amp;", "&")


DONE = re.compile(r'id="step-(s\d+)"')


def _seen(client: httpx.Client, run_id: str) -> dict[str, float]:
    """Step → when the stream first had it as done (Unix time)."""
    seen: dict[str, float] = {}
    with client.stream("GET", _stream_of(client, run_id), timeout=30) as stream:
        step = ""
        for line in stream.iter_lines():
            if found := DONE.search(line):
                step = found[1]
            if step and "✓" in line:
                seen.setdefault(step, time.time())
            if f"step-s{STEPS - 1}" in line or "run_finished" in line:
                break
    return seen


# -- viewers --------------------------------------------------------------------------------------


def _viewers_row(folder: Path) -> Row:
    """The CPU seconds of a run that 5 pages follow, against one that nobody looks at."""
    state = folder / "viewed"
    counts = iter(range(1000))

    def run_once(client: httpx.Client | None) -> float:
        run_id = f"v{next(counts)}"
        process = _start(folder, state, run_id)
        head = state / "runs" / run_id / "events.jsonl"
        while client and not head.exists():
            time.sleep(0.01)
        with ExitStack() as stack:
            for _ in range(VIEWERS if client else 0):
                assert client is not None
                path = _stream_of(client, run_id)
                stack.enter_context(client.stream("GET", path, timeout=60))
            _, _, used = os.wait4(process.pid, 0)
            process.returncode = 0
        return used.ru_utime + used.ru_stime

    with _serving(folder, state) as client:
        pairs = [(run_once(client), run_once(None)) for _ in range(TRIES)]
    ratios = [viewed / alone for viewed, alone in pairs]
    viewed, alone = (Sample(tuple(each)) for each in zip(*pairs, strict=True))
    what = "web: CPU of a run that 5 pages follow"
    return Row(what, f"{viewed}", f"nobody looks: {alone}", statistics.median(ratios), 1.02)


def main() -> int:
    """Only these rows: ``python tests/bench/looking.py``."""
    from table import show

    return 0 if all([show(row).ok for row in looking_rows()]) else 1  # noqa: C419 - all rows


if __name__ == "__main__":
    sys.exit(main())
