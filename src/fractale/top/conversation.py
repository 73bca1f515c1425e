"""A conversation on the screen: lines that are shown, and lines that the user types.

Questions, forms, and the questions before a cancel or a fork are conversations: coroutines that
show lines and wait for answers. Nothing is agreed to by a single key.
"""

from __future__ import annotations

import asyncio
import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, Protocol

from fractale.render.text import Line

EDITORS: Final = ("sensible-editor", "vim", "nano", "vi")


class ConversationLeft(Exception):
    """The user left the conversation, or it ended elsewhere."""


class Prompter(Protocol):
    """The screen of a conversation."""

    def add(self, *lines: Line) -> None:
        """Show more lines."""
        ...

    def prompt(self, words: str, *, hidden: bool) -> None:
        """Show the line to type in."""
        ...

    def suspended(self, work: Callable[[], str | None]) -> str | None:
        """Do something that needs the whole terminal."""
        ...


class Conversation:
    """The parts of a terminal that a dialogue needs, on a screen.

    Args:
        environment: Names the user's editor, as VISUAL or EDITOR.
    """

    def __init__(self, screen: Prompter, environment: Mapping[str, str]) -> None:
        wanted = environment.get("VISUAL") or environment.get("EDITOR")
        self._editor = wanted or next(filter(None, map(shutil.which, EDITORS)), None)
        self._screen = screen
        self._typed: asyncio.Future[str] | None = None
        self._left = False

    @property
    def has_editor(self) -> bool:
        return self._editor is not None

    def show(self, *lines: Line) -> None:
        self._screen.add(*lines)

    async def line(self, prompt: str = "> ", *, hidden: bool = False) -> str:
        """One line that the user types.

        Args:
            hidden: Do not show the characters.

        Raises:
            ConversationLeft: The user left the conversation.
        """
        if self._left:
            raise ConversationLeft
        self._typed = asyncio.get_running_loop().create_future()
        self._screen.prompt(prompt, hidden=hidden)
        try:
            return await self._typed
        finally:
            self._typed = None

    def typed(self, text: str) -> bool:
        """Give a typed line to the one who waits for it; false if no one does."""
        if self._typed is None or self._typed.done():
            return False
        self._typed.set_result(text)
        return True

    @property
    def waits(self) -> bool:
        """Whether it waits for a line."""
        return self._typed is not None and not self._typed.done()

    def leave(self) -> None:
        """End the conversation: the `line` that waits raises ConversationLeft."""
        self._left = True
        if self._typed is not None and not self._typed.done():
            self._typed.set_exception(ConversationLeft())

    def reopen(self) -> None:
        """Take up a conversation that ended elsewhere, to show why."""
        self._left = False

    async def edit(self, text: str) -> str | None:
        """The text that the user saves in an editor; None if the user does not save it."""
        return self._screen.suspended(lambda: self._edited(text))

    def _edited(self, text: str) -> str | None:
        with tempfile.TemporaryDirectory(prefix="fractale-") as directory:
            path = Path(directory) / "edited.yaml"
            path.write_text(text, encoding="utf-8")
            os.utime(path, (0, 0))  # saving sets any other time
            # A shell parses the command, since it may contain options and quotes.
            words = f"exec {self._editor} {shlex.quote(str(path))}"
            code = subprocess.run(["/bin/sh", "-c", words], check=False).returncode  # noqa: S603 - the user's own editor
            if code:
                self.show([("  ", ""), (f"the editor failed with exit code {code}", "warn")])
            if code or not path.exists() or path.stat().st_mtime == 0:
                return None
            return path.read_text(encoding="utf-8", errors="replace")
