"""What the user types at a terminal: lines, and texts in an editor."""

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
from typing import TypeVar

from fractale.cli.render.text import Line, narrowed, paint, screen_width, wants_color, writable

T = TypeVar("T")

EDITORS = ("sensible-editor", "vim", "nano", "vi")


class EndOfInput(Exception):
    """Nobody types any more: the terminal was closed, Ctrl-D, or the run is stopping."""


class TerminalInput:
    """The terminal of a run, which keeps running while the user thinks.

    Lines are read by the loop itself, not by a thread: one that waits for a key could not be
    ended by Ctrl-C.

    Args:
        environment: Names the editor that the user wants.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._descriptor = sys.stdin.fileno()
        wanted = environment.get("VISUAL") or environment.get("EDITOR")
        self._editor = wanted or next(filter(None, map(shutil.which, EDITORS)), None)
        self._left = asyncio.Event()

    @property
    def has_editor(self) -> bool:
        """Whether there is an editor to open."""
        return self._editor is not None

    def forget_typed(self) -> None:
        """Drop what was typed before it was asked for: it is no answer to what is shown now."""
        with contextlib.suppress(termios.error):  # the terminal is gone: `line` says so
            termios.tcflush(self._descriptor, termios.TCIFLUSH)

    def show(self, *lines: Line) -> None:
        """Print lines."""
        color = wants_color(sys.stderr)
        narrow = narrowed(lines, screen_width(sys.stderr))
        text = "".join(f"{paint(line, color=color)}\n" for line in narrow)
        sys.stderr.write(writable(text, sys.stderr.encoding))
        sys.stderr.flush()

    async def line(self, prompt: str = "> ", *, hidden: bool = False) -> str:
        """One line that the user types, without its end.

        Args:
            hidden: Whether the terminal is not to show what is typed.

        Raises:
            EndOfInput: There is none.
        """
        with self._without_echo() if hidden else contextlib.nullcontext():
            text = await self._line(prompt)
        if hidden:
            self.show([])  # the end of the line was not shown either
        return text

    @contextlib.contextmanager
    def _without_echo(self) -> Generator[None]:
        before = termios.tcgetattr(self._descriptor)
        silent = [*before]
        silent[3] &= ~termios.ECHO
        # What was typed ahead was shown already, and is dropped.
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
            self.show([])  # what comes next begins on a line of its own
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
        """Wait for no input any more: what waits for it raises EndOfInput."""
        self._left.set()

    async def _unless_left(self, awaited: asyncio.Future[T]) -> T:
        """What is awaited.

        Raises:
            EndOfInput: The terminal was left before.
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
        """A text as the user saves it in an editor; None if it isn't saved.

        Raises:
            EndOfInput: The terminal was left; so is the editor.
        """
        with tempfile.TemporaryDirectory(prefix="fractale-") as folder:
            path = Path(folder) / "edited.yaml"
            path.write_text(text, encoding="utf-8")
            os.utime(path, (0, 0))  # any time at which it is saved is another
            if code := await self._ended_editor(path):
                told = f"{self._editor}: Editing failed: it ended with exit code {code}"
                self.show([("  ", ""), (told, "warn")])
                return None
            if not path.exists() or path.stat().st_mtime == 0:
                return None
            return path.read_text(encoding="utf-8", errors="replace")

    async def _ended_editor(self, path: Path) -> int:
        """Let the user edit a file; returns the editor's exit code."""
        # A shell, since the name of an editor may have options and quotes.
        words = f"{self._editor} {shlex.quote(str(path))}"
        process = await asyncio.create_subprocess_shell(f"exec {words}")
        try:
            return await self._unless_left(asyncio.ensure_future(process.wait()))
        finally:
            if process.returncode is None:
                process.terminate()
                await process.wait()


def _set(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)
