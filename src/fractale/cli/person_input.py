"""What a person types at a terminal: lines, and texts in their editor."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import sys
import termios
from collections.abc import Mapping

import click

from fractale.cli.text import Line, paint, wants_color, writable

EDITORS = ("sensible-editor", "vim", "nano", "vi")


class EndOfInput(Exception):
    """Nobody types any more: the terminal was closed, or Ctrl-D."""


class TerminalInput:
    """The terminal of a run, which goes on while a person thinks.

    Lines are read by the loop itself, not by a thread: one that waits for a key could not be
    ended by Ctrl-C.

    Args:
        environment: Says which editor the person wants.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._descriptor = sys.stdin.fileno()
        wanted = environment.get("VISUAL") or environment.get("EDITOR")
        self._editor = wanted or next(filter(None, map(shutil.which, EDITORS)), None)

    @property
    def has_editor(self) -> bool:
        """Whether there is an editor to open."""
        return self._editor is not None

    def forget_typed(self) -> None:
        """Drop what was typed before it was asked for: it is no answer to what is shown now."""
        with contextlib.suppress(termios.error):  # the terminal is gone: `line` says so
            termios.tcflush(self._descriptor, termios.TCIFLUSH)

    def show(self, *lines: Line) -> None:
        """Print lines for the person."""
        color = wants_color(sys.stderr)
        text = "".join(f"{paint(line, color=color)}\n" for line in lines)
        sys.stderr.write(writable(text, sys.stderr.encoding))
        sys.stderr.flush()

    async def line(self, prompt: str = "> ") -> str:
        """One line that the person types, without its end.

        Raises:
            EndOfInput: There is none.
        """
        sys.stderr.write(writable(prompt, sys.stderr.encoding))
        sys.stderr.flush()
        typed = b""
        try:
            while not typed.endswith(b"\n"):
                typed += await self._piece()
        except BaseException:
            self.show([])  # what comes next begins on a line of its own
            raise
        return typed.decode(sys.stdin.encoding or "utf-8", "replace").rstrip("\r\n")

    async def _piece(self) -> bytes:
        loop = asyncio.get_running_loop()
        ready: asyncio.Future[None] = loop.create_future()
        loop.add_reader(self._descriptor, _set, ready)
        try:
            await ready
        finally:
            loop.remove_reader(self._descriptor)
        piece = b""
        with contextlib.suppress(OSError):  # the terminal is gone
            piece = os.read(self._descriptor, 65536)
        if not piece:
            raise EndOfInput
        return piece

    async def edit(self, text: str) -> str | None:
        """A text as the person leaves it in their editor; None if they left it as it was."""
        try:
            return await asyncio.to_thread(click.edit, text, editor=self._editor, extension=".yaml")
        except click.ClickException as error:
            self.show([("  ", ""), (error.message, "warn")])
            return None


def _set(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)
