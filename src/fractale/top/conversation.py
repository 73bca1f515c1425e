"""A conversation on the screen: lines that are shown, and lines that the user types.

Questions, forms, and the questions before a cancel or a fork are conversations: coroutines that
show lines and wait for answers. Nothing is agreed to by a single key.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol, TypeVar

from fractale.render.text import Line

T = TypeVar("T")


class ConversationLeft(Exception):
    """The user left the conversation, or it ended elsewhere."""


class Prompter(Protocol):
    """The screen of a conversation."""

    @property
    def is_open(self) -> bool:
        """Whether the user still sees it."""
        ...

    def add(self, *lines: Line) -> None:
        """Show more lines."""
        ...

    def prompt(self, words: str, *, hidden: bool) -> None:
        """Show the line to type in, once the user has seen what it is about."""
        ...

    async def suspended(self, work: Callable[[], Awaitable[T]]) -> T:
        """Do something that needs the whole terminal."""
        ...


class Conversation:
    """The parts of a terminal that a dialogue needs, on a screen.

    Args:
        environment: Names the user's editor, as VISUAL or EDITOR.

    Attributes:
        left: Set when the user leaves, or when the conversation ends elsewhere.
        is_agreed: Whether the user has agreed: leaving does not take that back.
    """

    def __init__(self, screen: Prompter, environment: Mapping[str, str]) -> None:
        self.environment = environment
        self.left = asyncio.Event()
        self.is_agreed = False
        self._screen = screen
        self._typed: asyncio.Future[str] | None = None

    def show(self, *lines: Line) -> None:
        """Show lines, unless the user has left the screen."""
        if self._screen.is_open:
            self._screen.add(*lines)

    async def line(self, prompt: str = "> ", *, hidden: bool = False) -> str:
        """One line that the user types.

        Args:
            hidden: Do not show the characters.

        Raises:
            ConversationLeft: The user left the conversation.
        """
        if self.left.is_set() or not self._screen.is_open:
            raise ConversationLeft
        self._typed = asyncio.get_running_loop().create_future()
        self._screen.prompt(prompt, hidden=hidden)
        try:
            return await self._typed
        finally:
            self._typed = None

    def typed(self, text: str) -> None:
        """Give a typed line to the one who waits for it, if someone does."""
        if self._typed is not None and not self._typed.done():
            self._typed.set_result(text)

    @property
    def waits(self) -> bool:
        """Whether it waits for a line."""
        return self._typed is not None and not self._typed.done()

    def agreed(self, words: str) -> None:
        """Note that the user has agreed, and show what is done now.

        Raises:
            ConversationLeft: The user has left meanwhile: nothing is to be done.
        """
        if self.left.is_set():
            raise ConversationLeft
        self.is_agreed = True
        self.show([(f"  {words}", "dim")])

    def leave(self) -> None:
        """End the conversation: the `line` that waits raises ConversationLeft."""
        self.left.set()
        if self._typed is not None and not self._typed.done():
            self._typed.set_exception(ConversationLeft())

    def reopen(self) -> None:
        """Take up a conversation that ended elsewhere, to show why."""
        self.left.clear()

    async def suspended(self, work: Callable[[], Awaitable[T]]) -> T:
        """Do something that needs the whole terminal, such as an editor."""
        return await self._screen.suspended(work)
