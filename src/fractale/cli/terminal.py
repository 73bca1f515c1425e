"""Input from a terminal: lines that the user types, and texts from an editor."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import shutil
import sys
import tempfile
import termios
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from fractale.render.text import Line, narrowed, paint, screen_width, wants_color, writable

T = TypeVar("T")

EDITORS = ("sensible-editor", "vim", "nano", "vi")


class EndOfInput(Exception):
    """The input is over: the terminal was closed, the user typed Ctrl-D, or the run is stopping."""


def editor_of(environment: Mapping[str, str]) -> str | None:
    """The command of the user's editor; None if there is none."""
    wanted = environment.get("VISUAL") or environment.get("EDITOR")
    return wanted or next(filter(None, map(shutil.which, EDITORS)), None)


class TerminalInput:
    """The terminal of a run. The run continues while the user thinks.

    The event loop reads the lines. A thread that waits for a key could not be ended by Ctrl-C.

    Args:
        environment: Names the user's editor, as VISUAL or EDITOR.
    """

    highlights = True
    """Whether text may be written to stderr, too, in color."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._descriptor = sys.stdin.fileno()
        self._editor = editor_of(environment)
        self._left = asyncio.Event()

    @property
    def has_editor(self) -> bool:
        return self._editor is not None

    def forget_typed(self) -> None:
        """Drop input from before the question was shown: it cannot be an answer to it."""
        with contextlib.suppress(termios.error):  # the terminal is gone: `line` says so
            termios.tcflush(self._descriptor, termios.TCIFLUSH)

    def show(self, *lines: Line) -> None:
        color = wants_color(sys.stderr)
        narrow = narrowed(lines, screen_width(sys.stderr))
        text = "".join(f"{paint(line, color=color)}\n" for line in narrow)
        sys.stderr.write(writable(text, sys.stderr.encoding))
        sys.stderr.flush()

    async def line(self, prompt: str = "> ", *, hidden: bool = False) -> str:
        """One line that the user types, without its end.

        Args:
            hidden: Do not show the characters on the terminal.

        Raises:
            EndOfInput: The input is over.
        """
        with self._without_echo() if hidden else contextlib.nullcontext():
            text = await self._line(prompt)
        if hidden:
            self.show([])  # the line's end was hidden, too
        return text

    @contextlib.contextmanager
    def _without_echo(self) -> Generator[None]:
        before = termios.tcgetattr(self._descriptor)
        silent = [*before]
        silent[3] &= ~termios.ECHO
        # Drop input that was typed ahead: the terminal has shown it already.
        termios.tcsetattr(self._descriptor, termios.TCSAFLUSH, silent)
        try:
            yield
        finally:
            termios.tcsetattr(self._descriptor, termios.TCSADRAIN, before)

    async def _line(self, prompt: str) -> str:
        sys.stderr.write(writable(prompt, sys.stderr.encoding))
        sys.stderr.flush()
        typed = b""
        try:
            while not typed.endswith(b"\n"):
                typed += await self._piece()
        except BaseException:
            self.show([])  # end the line of the prompt
            raise
        return typed.decode(sys.stdin.encoding or "utf-8", "replace").rstrip("\r\n")

    async def _piece(self) -> bytes:
        loop = asyncio.get_running_loop()
        ready: asyncio.Future[None] = loop.create_future()
        loop.add_reader(self._descriptor, _set, ready)
        try:
            await self._unless_left(ready)
        finally:
            loop.remove_reader(self._descriptor)
        piece = b""
        with contextlib.suppress(OSError):  # the terminal is gone
            piece = os.read(self._descriptor, 65536)
        if not piece:
            raise EndOfInput
        return piece

    def leave(self) -> None:
        """Stop waiting for input; each pending `line` and `edit` raises EndOfInput."""
        self._left.set()

    async def _unless_left(self, awaited: asyncio.Future[T]) -> T:
        """The result of `awaited`.

        Raises:
            EndOfInput: `leave` was called first.
        """
        left = asyncio.ensure_future(self._left.wait())
        try:
            await asyncio.wait((awaited, left), return_when=asyncio.FIRST_COMPLETED)
            if not awaited.done():
                raise EndOfInput
            return awaited.result()
        finally:
            left.cancel()
            awaited.cancel()

    async def edit(self, text: str) -> str | None:
        """The text that the user saves in an editor; None if the user does not save it.

        Raises:
            EndOfInput: `leave` was called. The editor is terminated.
        """
        with tempfile.TemporaryDirectory(prefix="fractale-") as directory:
            path = Path(directory) / "edited.yaml"
            path.write_text(text, encoding="utf-8")
            os.utime(path, (0, 0))  # saving sets any other time
            if code := await self._ended_editor(path):
                message = f"the editor `{self._editor}` failed with exit code {code}"
                self.show([("  ", ""), (message, "warn")])
                return None
            if not path.exists() or path.stat().st_mtime == 0:
                return None
            return path.read_text(encoding="utf-8", errors="replace")

    async def _ended_editor(self, path: Path) -> int:
        """Let the user edit a file; returns the editor's exit code."""
        # A shell parses the command, since it may contain options and quotes.
        words = f"{self._editor} {shlex.quote(str(path))}"
        before: list[Any] | None = None
        with contextlib.suppress(termios.error):
            before = termios.tcgetattr(self._descriptor)
        process = await asyncio.create_subprocess_shell(f"exec {words}")
        try:
            return await self._unless_left(asyncio.ensure_future(process.wait()))
        finally:
            if process.returncode is None:
                process.terminate()
                await process.wait()
                if before is not None:  # the terminal as the editor found it
                    with contextlib.suppress(termios.error):
                        termios.tcsetattr(self._descriptor, termios.TCSANOW, before)


def _set(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)
