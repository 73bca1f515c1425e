"""The person at the terminal, asked while a run waits."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Protocol

import click

from fractale.cli.text import inert


class Pausable(Protocol):
    """A display that can stand still while a question is on the screen."""

    def pause(self) -> None:
        """Stop drawing."""
        ...

    def resume(self) -> None:
        """Go on drawing."""
        ...


class TerminalPerson:
    """Asks on the terminal; see `fractale.runs.Person`.

    Args:
        display: Stands still while a question is asked.
        yes: Approvals are agreed to without asking.
    """

    def __init__(self, display: Pausable, *, yes: bool = False) -> None:
        self._display = display
        self._yes = yes

    async def answer(self, question: Mapping[str, Any]) -> Any:
        """The person's answer to one question of the run."""
        if question.get("kind") == "approval":
            return self._yes or await self._ask(question, approval_text, ("y", "n")) == "y"
        letters = {"r": "retry", "s": "skip", "q": "quit"}
        return letters[await self._ask(question, failure_text, tuple(letters))]

    async def _ask(self, question: Mapping[str, Any], text: Any, letters: tuple[str, ...]) -> str:
        self._display.pause()
        try:
            click.echo(text(question), err=True)
            return await asyncio.to_thread(_letter, letters)
        finally:
            self._display.resume()


def _letter(letters: tuple[str, ...]) -> str:
    while True:
        answer = str(click.prompt(">", prompt_suffix=" ", err=True)).strip().lower()[:1]
        if answer in letters:
            return answer
        click.echo(f"one of: {', '.join(letters)}", err=True)


def approval_text(question: Mapping[str, Any]) -> str:
    """The exact call and why it is asked, with nothing in it interpreted."""
    import json

    lines = [f"! {question['step']} wants to call {question['tool']}   ({question['why']})"]
    for name, value in question["arguments"].items():
        lines.append(f"    {inert(name, 40)}  {inert(json.dumps(value, ensure_ascii=False), 2000)}")
    lines.append("  y yes, this once · n no")
    return "\n".join(lines)


def failure_text(question: Mapping[str, Any]) -> str:
    """What failed, and what can be done about it."""
    return (
        f"? step {question['step']} failed: {inert(str(question['error']), 500)}\n"
        "  r retry it · s skip it and go on · q quit"
    )
