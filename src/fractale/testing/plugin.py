"""fractale's pytest plugin: fixtures for tests of plans. pytest finds it by its entry point.

The plugin imports fractale's engine only for a test that uses one of these fixtures:

- `run_plan` and `arun_plan` run a plan with `fractale_settings`, and return a `PlanRun`.
- `fractale_settings` are settings that do not depend on the machine.
- `fake_tools` is an empty `FakeToolServer`.
- `scripted_model` makes a `ScriptedModel`.
- `tool_server` and `model_server` start a `ToolServer` or a `ModelServer`. It stops after the test.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pytest

if TYPE_CHECKING:
    from langchain_core.messages import BaseMessage
    from typing_extensions import Unpack

    from fractale.runs.invocation import PlanSource, RunKeywords
    from fractale.settings import Settings
    from fractale.testing import (
        FakeToolServer,
        ModelRequest,
        ModelServer,
        PlanRun,
        Reply,
        ScriptedModel,
        ToolServer,
    )


class RunPlan(Protocol):
    """Runs a plan and waits for its end."""

    def __call__(
        self,
        plan: PlanSource,
        inputs: Mapping[str, Any] | None = None,
        **keywords: Unpack[RunKeywords],
    ) -> PlanRun: ...


class ArunPlan(Protocol):
    """Runs a plan."""

    async def __call__(
        self,
        plan: PlanSource,
        inputs: Mapping[str, Any] | None = None,
        **keywords: Unpack[RunKeywords],
    ) -> PlanRun: ...


class StartModelServer(Protocol):
    """Starts a scripted server of models."""

    def __call__(
        self,
        script: Iterable[Reply | str] | Callable[[ModelRequest], Reply | str],
        **options: Any,
    ) -> ModelServer: ...


class MakeModel(Protocol):
    """Makes a scripted model."""

    def __call__(
        self,
        script: Iterable[Reply | str] | Callable[[list[BaseMessage]], Reply | str] = (),
        **options: Any,
    ) -> ScriptedModel: ...


@pytest.fixture
def fractale_settings(tmp_path: Path) -> Settings:
    """Settings that read nothing of the machine; runs are recorded in the test's directory."""
    from dataclasses import replace

    from fractale.settings import Settings

    return replace(Settings(), state_dir=tmp_path / ".fractale", poll_seconds=0.5)


@pytest.fixture
def fake_tools() -> FakeToolServer:
    """A tool server without a server: give it answers, and look at its `calls`."""
    from fractale.testing import FakeToolServer

    return FakeToolServer()


@pytest.fixture
def scripted_model() -> MakeModel:
    """Makes a model that answers by a script: ``scripted_model(["first", "second"])``."""
    from fractale.testing import ScriptedModel

    return ScriptedModel


@pytest.fixture
def tool_server() -> Generator[Callable[[FakeToolServer], ToolServer]]:
    """Serves a `FakeToolServer` over HTTP: ``tool_server(fake_tools).settings()``."""
    from fractale.testing import ToolServer

    with ExitStack() as started:
        yield lambda tools: started.enter_context(ToolServer(tools))


@pytest.fixture
def model_server() -> Generator[StartModelServer]:
    """Starts a model's server that answers by a script: ``model_server(["Hello"]).openai_url``."""
    from fractale.testing import ModelServer

    with ExitStack() as started:
        yield lambda script, **options: started.enter_context(ModelServer(script, **options))


@pytest.fixture
def arun_plan(fractale_settings: Settings) -> ArunPlan:
    """Runs a plan, as `fractale.arun` does, and records its events; for async tests."""
    from fractale.testing.plan_run import arun_plan

    async def run(
        plan: PlanSource,
        inputs: Mapping[str, Any] | None = None,
        **keywords: Unpack[RunKeywords],
    ) -> PlanRun:
        return await arun_plan(plan, inputs, **{"settings": fractale_settings, **keywords})

    return run


@pytest.fixture
def run_plan(arun_plan: ArunPlan) -> RunPlan:
    """The same as `arun_plan`, for tests that are not async."""

    def run(
        plan: PlanSource,
        inputs: Mapping[str, Any] | None = None,
        **keywords: Unpack[RunKeywords],
    ) -> PlanRun:
        return asyncio.run(arun_plan(plan, inputs, **keywords))

    return run
