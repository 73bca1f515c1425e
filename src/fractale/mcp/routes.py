"""Names: which server's which tool, prompt or resource a name means."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

from fractale.errors import ToolError
from fractale.text import similar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Route:
    """Where a thing is: its server, its name there, and the name that the run uses."""

    server: str
    name: str
    shown: str


class Routes:
    """All names of one kind.

    A name is bare where one server alone has it, else ``server.name``. A name that looks like
    another server's qualified one is never bare, so no server can speak for another.

    Args:
        kind: ``tool`` or ``prompt``, for messages.
        names: For each server, the names it has.
    """

    def __init__(self, kind: str, names: Mapping[str, Iterable[str]]) -> None:
        self._kind = kind
        self._names = {server: dict.fromkeys(own) for server, own in names.items()}
        self._count = Counter(name for own in self._names.values() for name in own)

    def shown(self, server: str, name: str) -> str:
        """The name to use in a run for what `server` calls `name`."""
        return name if self._is_bare(name) else f"{server}.{name}"

    def _is_bare(self, name: str) -> bool:
        qualified = any(name.startswith(f"{server}.") for server in self._names)
        return self._count[name] == 1 and not qualified

    def find(self, name: str) -> Route | None:
        """The one thing of that bare or qualified name, or None.

        Raises:
            ToolError: Several servers have it.
        """
        found = [
            Route(server, own, self.shown(server, own)) for server, own in self._candidates(name)
        ]
        if len(found) > 1:
            choices = " or ".join(f"`{route.server}.{route.name}`" for route in found)
            raise ToolError(
                f"`{name}` is a {self._kind} of {len(found)} servers", hint=f"write {choices}"
            )
        return found[0] if found else None

    def _candidates(self, name: str) -> list[tuple[str, str]]:
        qualified = [
            (server, name[len(server) + 1 :])
            for server, own in self._names.items()
            if name.startswith(f"{server}.") and name[len(server) + 1 :] in own
        ]
        # Where it reads as some server's qualified name, a bare tool of that name does not count.
        if qualified or any(name.startswith(f"{server}.") for server in self._names):
            return qualified
        return [(server, name) for server, own in self._names.items() if name in own]

    def _all(self) -> Iterator[tuple[str, str]]:
        return ((server, own) for server, names in self._names.items() for own in names)

    def suggestion(self, name: str) -> str:
        """The nearest names to one that nothing has: ``did you mean …?``; empty without any."""
        shown: dict[str, list[str]] = {}
        for server, own in self._all():
            shown.setdefault(own, []).append(self.shown(server, own))
            shown.setdefault(f"{server}.{own}", []).append(self.shown(server, own))
        near = list(dict.fromkeys(each for own in similar(name, shown, 2) for each in shown[own]))
        return f"did you mean {' or '.join(f'`{n}`' for n in near)}?" if near else ""

    def unknown(self, name: str) -> ToolError:
        """The error for a name that nothing has, with the nearest that something has."""
        suggestion = self.suggestion(name)
        tail = f"; {suggestion}" if suggestion else ""
        return ToolError(
            f"no server has a {self._kind} `{name}`{tail}",
            hint="`fractale list` shows all there are",
        )
