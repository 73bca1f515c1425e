"""The command line as a reader of the README uses it: in a folder with `plans` and `registries`."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import forked
from fractale.testing import ModelRequest, ModelServer, Reply

ROOT = Path(__file__).parents[2]
SECONDS = 180


class Reader:
    """Somebody in a fresh checkout, perhaps with a model behind the command line."""

    def __init__(self, folder: Path, model: ModelServer | None = None, **variables: str) -> None:
        self.folder, self.model = folder, model
        for name in ("plans", "registries"):
            (folder / name).symlink_to(ROOT / name)
        kept = {k: v for k, v in os.environ.items() if k == "PATH" or k.startswith("COVERAGE_")}
        self.environment = {**kept, "HOME": str(folder), "NO_COLOR": "1", **variables}
        if model is not None:
            self.environment |= {
                "FRACTALE_LLM_PROVIDER": "openai",
                "OPENAI_API_KEY": "k-1234567890",
                "OPENAI_BASE_URL": model.openai_url,
            }

    def __call__(self, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return forked.run(
            words, cwd=self.folder, env={**self.environment, **variables}, timeout=SECONDS
        )

    def events(self, *words: str, **variables: str) -> list[dict[str, Any]]:
        """All events of what the words run."""
        command, *rest = words
        done = self(command, "--json", *rest, **variables)
        assert done.stdout, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    def end(self, *words: str, **variables: str) -> dict[str, Any]:
        """The last event: status and outputs."""
        return self.events(*words, **variables)[-1]


def path_of(events: list[dict[str, Any]]) -> list[str]:
    """The steps in the order in which they ended, with their outcomes."""
    ended = [e for e in events if e["event"] == "step_finished"]
    return [f"{e['step']}:{e['outcome']}" for e in ended]


def errors_of(events: list[dict[str, Any]], step: str) -> list[str]:
    """Why a step failed, each time."""
    ended = [e for e in events if e["event"] == "step_finished" and e["step"] == step]
    return [str(e["error"]) for e in ended if e["error"]]


def asked(request: ModelRequest) -> str:
    """All that the model was told in a request, as one text."""
    return json.dumps(request.body["messages"], ensure_ascii=False)


def by_turns(*replies: Reply | str | Callable[[ModelRequest], Reply | str]) -> Any:
    """A model that answers in this order; a function is told what it was asked."""
    left = list(replies)

    def answer(request: ModelRequest) -> Reply | str:
        said = left.pop(0)
        return said(request) if callable(said) else said

    return answer


def path_with(folder: Path | str, environment: Mapping[str, str] = os.environ) -> str:
    """A PATH on which a folder's programs come first."""
    return f"{folder}{os.pathsep}{environment.get('PATH', os.defpath)}"
