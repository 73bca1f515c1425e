"""The subject of an examination: a site, and what the user wants to run there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fractale.plan.model import Plan
from fractale.registry import Registry
from fractale.settings import Settings
from fractale.site.model import Site
from fractale.site.needs import NeedsTable
from fractale.site.programs import Machine


@dataclass(frozen=True, slots=True, kw_only=True)
class Examination:
    """One examination.

    Args:
        plan: None if no plan was given, or if it can't be read.
        wanted: Path of the plan, as given.
        registries: Files of ``-r``, which a run serves itself.
        served: Files for ``fractale serve``.
        agents: Sub-agents by dotted path.
        online: Whether to ask models, which costs some tokens.
        inputs: Values of the plan's inputs that the user wants to pass.
    """

    settings: Settings
    place: Machine
    site: Site
    needs: NeedsTable
    plan: Plan | None = None
    wanted: str | None = None
    registries: Sequence[Registry] = ()
    served: Sequence[Registry] = ()
    agents: Sequence[str] = ()
    online: bool = False
    inputs: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @property
    def timeout(self) -> float:
        """Seconds until a program or server must answer."""
        return self.place.timeout

    @property
    def is_general(self) -> bool:
        """Whether nothing was given: the doctor then examines the site for every feature."""
        return self.wanted is None and not self.registries and not self.served
