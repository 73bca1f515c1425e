"""One question asked on a terminal, without a run around it: prints the answer as JSON."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

from fractale.cli.dialogue import TerminalUser
from fractale.cli.terminal import TerminalInput
from fractale.events import Event
from fractale.questions import MISSING


class StillDisplay:
    """A display with nothing on it."""

    def pause(self) -> None:
        """Nothing moves."""

    def resume(self) -> None:
        """Nothing moved."""


async def ask(questions: list[dict]) -> None:
    person = TerminalUser(StillDisplay(), TerminalInput(dict(os.environ)))
    person.listen(Event("run_started", "k7f3a"))
    for question in questions:
        answer = await person.answer(question)
        shown = "MISSING" if answer is MISSING else json.dumps(answer.value)
        print(f"answer: {shown}", flush=True)


asyncio.run(ask(json.loads(Path(sys.argv[1]).read_text())))
