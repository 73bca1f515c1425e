"""Real runs to be replayed: a scripted model over HTTP, tools that note each of their calls."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fractale.agents.catalog import Catalog
from fractale.events import Event
from fractale.models import Models, RetryPolicy
from fractale.plan.build import load_plan
from fractale.policy import Policy
from fractale.questions import Answers
from fractale.record.recordings import open_recording
from fractale.replaying.replay import Live, Replayed, replay
from fractale.runs import RunOptions, Runs
from fractale.settings import Settings
from fractale.store.run_record import RunRecord, RunRecords
from fractale.testing import FakeToolServer, ModelServer
from fractale.testing.model_server import ModelRequest, Reply


@dataclass
class Stage:
    """One state folder, the tools and the model of its runs, and their replays."""

    folder: Path
    settings: Settings
    server: FakeToolServer = field(default_factory=FakeToolServer)
    script: Any = ()
    retry: RetryPolicy = field(default_factory=lambda: RetryPolicy(tries=1))
    agents: Catalog = field(default_factory=Catalog)
    asked: int = 0
    result: Any = None
    told: list[dict[str, Any]] = field(default_factory=list)

    @property
    def folders(self) -> RunRecords:
        return RunRecords(self.settings.state_dir)

    @property
    def last(self) -> RunRecord:
        return self.folders.find(self.result.run)

    def write(self, text: str, name: str = "plan.yaml") -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
        return path

    def _reply(self, request: ModelRequest) -> Reply | str:
        """What the model says next; several processes of a run share one script."""
        return self.script(request) if callable(self.script) else self.script.pop(0)

    @contextmanager
    def runs(self, *, yes: bool = False):
        """Runs of which each model call goes over HTTP."""
        with ModelServer(self._reply) as http:
            settings = replace(
                self.settings,
                openai_base_url=http.openai_url,
                openai_api_key="k-1234567890",
                provider="openai",
                model="scripted",
            )
            models = Models(settings, retry=self.retry)
            policy = Policy(settings=settings.policy, yes=yes)
            yield Runs(settings, self.server, models=models, policy=policy, agents=self.agents)
            self.asked += len(http.requests)

    async def record(
        self, text: str, inputs: Any = None, *, secrets: Any = None, **options: Any
    ) -> Any:
        """Run a plan for real; its result."""
        plan = load_plan(self.write(text))
        yes = options.get("yes", False)
        with self.runs(yes=yes) as runs:
            given = RunOptions(**_options(options))
            self.result = await runs.start(plan, inputs or {}, given, secrets=secrets)
        return self.result

    async def resume(self, *, secrets: Any = None, **options: Any) -> Any:
        with self.runs(yes=options.get("yes", False)) as runs:
            given = RunOptions(**_options(options))
            self.result = await runs.resume(self.result.run, given, secrets=secrets)
        return self.result

    async def replay(
        self, plan: str | None = None, live: Live | None = None, folder: RunRecord | None = None
    ) -> Replayed:
        """Replay the last run; nothing may be called that is not live."""
        calls, asked = len(self.server.calls), self.asked
        self.told.clear()
        today = load_plan(self.write(plan, "today.yaml")) if plan else None
        path = (folder or self.last).path
        with open_recording(path, settings=trusting(self.settings)) as recording:
            replayed = await replay(
                recording,
                replace(self.settings, secrets=("today-only",)),
                plan=today,
                agents=self.agents,
                live=live,
                listeners=[lambda event: self.told.append(event.as_dict())],
            )
        if live is None or live.tools is None:
            assert len(self.server.calls) == calls
        assert self.asked == asked
        return replayed

    async def equal(self, **given: Any) -> Replayed:
        """Replay the last run, which must be equal to its last event."""
        replayed = await self.replay(**given)
        assert replayed.divergence is None, replayed.divergence
        assert (replayed.ends, replayed.events) == ("", replayed.of)
        return replayed


def _options(given: dict[str, Any]) -> dict[str, Any]:
    options = dict(given)
    for name in ("answers", "replies"):
        if name in options:
            options[name] = Answers(options[name])
    return options


def kinds(events: Sequence[Event]) -> list[str]:
    return [event.kind for event in events]


def trusting(settings: Settings) -> Settings:
    """The settings of a person who started all runs of their state folder."""
    environment = {**settings.environment, "FRACTALE_TRUST_PROJECT": "1"}
    return replace(settings, environment=environment)
