"""All settings of one process."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fractale.settings.environment import slurm_token, without_secrets
from fractale.settings.executors import ExecutorSettings
from fractale.settings.files import PROJECT_FOLDER, Project
from fractale.settings.notify import Notify
from fractale.settings.rules import PolicySettings
from fractale.settings.secrets import read_store, with_password
from fractale.settings.servers import ServerSettings
from fractale.settings.waiting import Waiting

DEFAULT_PROVIDER = "gemini"
DEFAULT_MODELS = {"gemini": "gemini-2.5-pro", "openai": "gpt-4.1", "local": "smollm2-135m"}
DEFAULT_MAX_ATTEMPTS = 100
DEFAULT_POLL_SECONDS = 60.0
"""Sites forbid tighter polling; the files of a job are read more often."""

LOCK_FILE = "fractale.lock"


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """US dollars per million tokens."""

    input: float
    output: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All settings of one process, and in `origins` where each came from.

    Args:
        waiting: Settings of the project that are left out until the user trusts them.
        declined: Whether the user chose to continue without them.
        project: The project's directory, and the files that its search ignored.
        project_folder: The directory that has the project's settings, or would have them.
    """

    provider: str = DEFAULT_PROVIDER
    model: str | None = None
    local_model: str | None = None
    openai_api_key: str | None = field(default=None, repr=False)
    openai_base_url: str | None = None
    gemini_api_key: str | None = field(default=None, repr=False)
    gemini_base_url: str | None = None
    fallback_models: tuple[str, ...] = ()
    max_attempts: int = DEFAULT_MAX_ATTEMPTS
    local_cores: int | None = None
    state_dir: Path = Path(PROJECT_FOLDER)
    store: str | None = field(default=None, repr=False)
    audit: Path | None = None
    poll_seconds: float = DEFAULT_POLL_SECONDS
    servers: Mapping[str, ServerSettings] = field(default_factory=dict[str, ServerSettings])
    prices: Mapping[str, Price] = field(default_factory=dict[str, Price])
    policy: PolicySettings = field(default_factory=PolicySettings)
    notify: tuple[Notify, ...] = ()
    executors: Mapping[str, ExecutorSettings] = field(default_factory=dict[str, ExecutorSettings])
    project_folder: Path | None = None
    origins: Mapping[str, str] = field(default_factory=dict[str, str])
    secrets: tuple[str, ...] = field(default=(), repr=False)
    environment: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    waiting: tuple[Waiting, ...] = ()
    declined: bool = False
    project: Project | None = field(default=None, repr=False)

    @property
    def model_spec(self) -> str:
        """The model as ``provider:name``."""
        if self.model and ":" in self.model:
            return self.model
        name = self.model or DEFAULT_MODELS.get(self.provider, "")
        return f"{self.provider}:{name}"

    @property
    def lock_file(self) -> Path:
        """Where the tools of servers are pinned: beside the project's settings if it has any."""
        project = self.project
        if (
            project
            and project.config
            and not self.waiting
            and os.access(project.directory, os.W_OK)
        ):
            return project.directory / LOCK_FILE
        return self.state_dir / LOCK_FILE

    @property
    def checkpoints(self) -> Path | str:
        """Where the checkpoints of runs are: the state directory, or a PostgreSQL server's URL."""
        return self.store or self.state_dir

    @property
    def site_environment(self) -> dict[str, str]:
        """The environment of the site's programs, and of jobs from their schedulers: no secrets.

        Only the token that Slurm's programs need is in it; local jobs do not get that token,
        either.
        """
        return without_secrets(self.environment, self.secrets) | slurm_token(self.environment)

    def with_flags(
        self,
        *,
        provider: str | None = None,
        model: str | None = None,
        max_attempts: int | None = None,
        store: str | None = None,
    ) -> Settings:
        """The same settings with the command line's options over them.

        Raises:
            SettingsError: `store` is not a place for checkpoints.
        """
        flags = {"provider": provider, "model": model, "max_attempts": max_attempts}
        given: dict[str, Any] = {k: v for k, v in flags.items() if v is not None}
        if provider is not None and model is None:
            # Another provider's model name has no meaning for this one.
            given["model"] = None
        if store is not None:
            given["store"] = read_store(store)
            given["secrets"] = with_password(self.secrets, given["store"])
        origins = {**self.origins, **dict.fromkeys(given, "command line")}
        return replace(self, **given, origins=origins)
