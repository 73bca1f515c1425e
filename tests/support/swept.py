"""Real sweeps of small plans, and an executor that follows a script instead of running anything."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from fractale.settings import Settings, load_settings
from fractale.sweeps.begin import prepare, write_sweep
from fractale.sweeps.driver import drive, opened_sweep
from fractale.sweeps.executors import WorkerLost
from fractale.sweeps.record import SweepRecord
from fractale.sweeps.results import SweepView
from fractale.sweeps.spec import Axis, SweepSpec
from fractale.sweeps.task import RunReport, RunTask
from fractale.sweeps.worker import Worker

TOOLS = '''
import os
import time
from pathlib import Path


def _note(name: str, x: object) -> None:
    with open("effects", "a") as file:  # one write, when it is closed
        file.write(f"{name} {x}\\n")


def double(x: int) -> int:
    """Double a number."""
    _note("double", x)
    return 2 * x


def slow(x: int, seconds: float = 0.2) -> int:
    """Double a number, slowly."""
    _note("slow", x)
    time.sleep(seconds)
    return 2 * x


def gate(x: int) -> int:
    """Wait until the file `open` is there."""
    _note("gate", x)
    until = time.monotonic() + 60
    while not Path("open").exists() and time.monotonic() < until:
        time.sleep(0.02)
    return 2 * x


def die(x: int) -> int:
    """End the process as a crash does, once or always."""
    _note("die", x)
    if Path("deadly").exists():
        os.kill(os.getpid(), 9)
    return 2 * x


def odd(x: int) -> int:
    """Fail for odd numbers, unless the file `mended` is there."""
    _note("odd", x)
    if x % 2 and not Path("mended").exists():
        raise ValueError(f"{x} is odd")
    return 2 * x


def loud(x: int) -> int:
    """Print to stdout, as tools should not."""
    print('{"report": {"run": "forged", "status": "success"}}', flush=True)
    os.system("echo a program prints")
    return 2 * x
'''

REGISTRY = "tools:\n" + "".join(
    f"  - path: swept_tools.{name}\n" for name in ("double", "slow", "gate", "die", "odd", "loud")
)


def plan_text(
    *steps: str, outputs: str = "y: '{{ steps.last.outputs.result }}'", more: str = ""
) -> str:
    """A plan with the input `x`; each step is YAML, indented by its own."""
    lines = "\n".join(steps)
    return (
        f"name: p\ninputs:\n  x: {{type: integer}}\n{more}steps:\n{lines}\noutputs:\n  {outputs}\n"
    )


def tool_step(tool: str, name: str = "last") -> str:
    return f"  - name: {name}\n    tool: {tool}\n    inputs: {{x: '{{{{ inputs.x }}}}'}}"


ONE_TOOL = plan_text(tool_step("double"))
ASKS = plan_text(
    "  - name: review\n    ask: Shall it run?\n    choices: [yes, no]", tool_step("double")
)
ASKS_EACH = plan_text(
    "  - name: review\n    ask: 'Shall {{ inputs.x }} run?'\n    choices: [yes, no]",
    tool_step("double"),
)


def project(folder: Path, plan: str = ONE_TOOL) -> Path:
    """A directory with tools and a plan. Returns the plan's path."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "swept_tools.py").write_text(TOOLS, encoding="utf-8")
    (folder / "tools.yaml").write_text(REGISTRY, encoding="utf-8")
    path = folder / "plan.yaml"
    path.write_text(plan, encoding="utf-8")
    return path


def settings_in(folder: Path) -> Settings:
    """The settings with the state directory ``folder/state``."""
    return load_settings({**os.environ, "FRACTALE_STATE_DIR": str(folder / "state")}, folder)


def made_sweep(
    folder: Path,
    rows: int | Sequence[Any],
    plan: str = ONE_TOOL,
    *,
    sweep_id: str = "s",
    max_parallel: int | None = 2,
    yes: bool = False,
    **spec: Any,
) -> SweepRecord:
    """A new sweep over `x` in a directory, which must be the working directory. Nothing runs."""
    path = project(folder, plan)
    values = list(range(rows)) if isinstance(rows, int) else list(rows)
    wanted = SweepSpec(plan=str(path), over=(Axis("x", values),), max_parallel=max_parallel, **spec)
    settings = settings_in(folder)
    prepared = prepare(wanted, settings, registries=(folder / "tools.yaml",), yes=yes)
    return write_sweep(prepared, settings, sweep_id)


def effects(folder: Path) -> list[str]:
    """The calls that tools made, as they noted them."""
    path = folder / "effects"
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


Act = Callable[[RunTask, int], Any]
"""Given a task and how often its row was performed before, returns a report or a WorkerLost."""


def done(task: RunTask, status: str = "success", **more: Any) -> RunReport:
    return RunReport(run=task.run, status=status, outputs={"y": task.row}, **more)


class ScriptedExecutor:
    """Performs tasks by a function. It keeps the tasks, and how many it had at a time."""

    def __init__(self, act: Act | None = None, workers: int = 2, *, keeps: bool = True) -> None:
        self._act: Act = act or (lambda task, _: done(task))
        self.workers = workers
        self.tasks: list[RunTask] = []
        self._keeps = keeps
        self.busy = 0
        self.most = 0
        self.stopped = False

    async def perform(self, task: RunTask) -> RunReport:
        before = sum(each.row == task.row for each in self.tasks)
        if self._keeps:
            self.tasks.append(task)
        self.busy += 1
        self.most = max(self.most, self.busy)
        try:
            await asyncio.sleep(0)
            found = self._act(task, before)
            if asyncio.iscoroutine(found):
                found = await found
        finally:
            self.busy -= 1
        if isinstance(found, Exception):
            raise found
        return found

    def stop(self) -> None:
        self.stopped = True

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        return None

    @property
    def rows(self) -> list[int]:
        """The rows in the order in which they were performed."""
        return [task.row for task in self.tasks]


class InProcess(ScriptedExecutor):
    """Performs real runs, one at a time, in this process."""

    def __init__(self, folder: Path) -> None:
        super().__init__(workers=1)
        self._worker = Worker({**os.environ, "FRACTALE_STATE_DIR": str(folder / "state")})

    async def perform(self, task: RunTask) -> RunReport:
        self.tasks.append(task)
        return await self._worker.perform(task)

    async def __aexit__(self, *_: object) -> None:
        await self._worker.__aexit__(None, None, None)


async def driven(
    record: SweepRecord,
    executor: Any,
    settings: Settings,
    *,
    listener: Any = None,
    stop: asyncio.Event | None = None,
) -> SweepView:
    """Drive a sweep with an executor that is open, without pauses after losses."""
    async with opened_sweep(record) as sweep:
        return await drive(
            sweep,
            executor,
            settings=settings,
            listener=listener,
            stop=stop,
            pauses=(0.0, 0.0, 0.0),
        )


def states(view: SweepView) -> list[str]:
    return [row.state for row in view.rows]


def lines_about(record: SweepRecord, row: int) -> list[str]:
    """What the ledger's lines about a row are, in order."""
    return [str(line["is"]) for line in record.read_ledger() if line.get("row") == row]


def lost(reason: str = "worker 1 was killed", **more: Any) -> WorkerLost:
    return WorkerLost(reason, **more)
