"""Notifications of a sweep: one at its end, and one when its first run asks something.

The runs of a sweep send nothing themselves. A sweep that the user stops sends nothing either.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fractale.plan.escape import escape
from fractale.runs.notify import Message, Notifications, RunNotifications, chat_text
from fractale.sweeps.record import SweepRecord
from fractale.sweeps.results import SweepView
from fractale.text import count

if TYPE_CHECKING:
    from fractale.settings import Occasion, Settings


class SweepNotifications:
    """Sends the notifications of a sweep while this process drives it.

    Args:
        sends: Sends them; tests give one with other pauses.
    """

    def __init__(
        self, record: SweepRecord, settings: Settings, sends: Notifications | None = None
    ) -> None:
        self._record = record
        self._sends = sends or Notifications()
        self._plan = escape(str(record.read_head().get("plan") or ""), 200)
        self._notified: RunNotifications | None = None
        if settings.notify:
            environment = settings.site_environment
            self._notified = self._sends.of_run(settings.notify, environment, None)
        self._asked = False

    def hear(self, line: Mapping[str, Any], counts: Mapping[str, int]) -> None:
        """Take a new line of the ledger: the first one with a question is sent."""
        asks = [str(step) for step in line.get("asks") or ()]
        if self._notified is None or self._asked or line.get("is") != "ended" or not asks:
            return
        self._asked = True
        sweep = self._record.sweep_id
        steps = ", ".join(f"`{escape(step, 100)}`" for step in asks[:5])
        words = f"row {line.get('row')} asks at {steps}; the other rows continue"
        message = self._message("waiting", words, [f"fractale sweep answer {sweep}"], counts)
        self._notified.send(("question",), message)

    async def end(self, view: SweepView, *, by_user: bool) -> list[str]:
        """Send the end of the sweep, and wait until all is sent.

        Args:
            by_user: Whether the user stopped it.

        Returns:
            Why a notification could not be sent.
        """
        if self._notified is None:
            return []
        if view.status != "waiting" and not (view.status == "stopped" and by_user):
            failed = view.status in ("failed", "limit")
            occasions: tuple[Occasion, ...] = ("failure", "end") if failed else ("end",)
            self._notified.send(occasions, self._ended(view))
        self._notified.close()
        return await asyncio.to_thread(self._sends.finish)

    def _ended(self, view: SweepView) -> Message:
        total = sum(view.counts.values())
        counts = ", ".join(f"{number:,} {state}" for state, number in view.counts.items())
        why = escape(view.reason, 300) if view.reason else ""
        reached = f"the limit `{view.reached}` of the sweep" if view.reached else ""
        words = " · ".join(filter(None, (view.status, reached or why, counts)))
        message = self._message(view.status, words, list(view.next), view.counts)
        return {**message, "rows": total, "used": dict(view.used), "reached": view.reached}

    def _message(
        self, status: str, words: str, commands: list[str], counts: Mapping[str, int]
    ) -> Message:
        sweep = self._record.sweep_id
        text = f"{self._plan} (sweep {sweep}): {words}"
        return {
            "version": 1,
            "sweep": sweep,
            "run": sweep,
            "plan": self._plan,
            "title": self._plan,
            "time": round(time.time(), 3),
            "host": socket.gethostname(),
            "record": str(self._record.path.absolute()),
            "text": chat_text(text, commands, f"fractale sweep show {sweep}"),
            "status": status,
            "verdict": words,
            "next": commands,
            "counts": dict(counts),
        }


def lost_words(faults: list[str]) -> str:
    """The faults of notifications as one warning."""
    more = f" (and {count(len(faults) - 3, 'more fault')})" if len(faults) > 3 else ""
    return "; ".join(faults[:3]) + more
