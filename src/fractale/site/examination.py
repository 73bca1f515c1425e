"""What the doctor examines: a site, and what somebody wants to do on it."""

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
        plan: None where none was given, or where it can't be read.
        wanted: The plan's file as it was given.
        registries: Those of ``-r``, which a run serves itself.
        served: Server files, for ``fractale serve``.
        agents: Sub-agents by dotted path.
        online: Whether models may be asked, which costs some tokens.
        inputs: Of the plan, as somebody wants to give them.
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
        """Seconds that one answer may take."""
        return self.place.timeout

    @property
    def is_general(self) -> bool:
        """Whether nothing was given: then the site is examined for every feature."""
        return self.wanted is None and not self.registries and not self.served
