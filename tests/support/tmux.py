"""A real terminal for tests: a tmux session of its own, whose screen can be read."""

from __future__ import annotations

import itertools
import re
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

CONFIGURATION = """
set -g remain-on-exit on
set -g status off
set -g history-limit 5000
set -g default-terminal screen-256color
set -s escape-time 0
"""
MOST_LOOKS = 20
"""How often a screen that never stands still is looked at."""


class Tmux:
    """A command in a tmux session; ends with the block.

    Args:
        folder: Where the command runs.
        words: The command.
        env: Its environment.
        size: Columns and lines.
    """

    def __init__(
        self, folder: Path, *words: str, env: dict[str, str], size: tuple[int, int] = (100, 45)
    ) -> None:
        self._size = size
        if shutil.which("tmux") is None:
            pytest.skip("tmux is not installed")
        self._sockets = Path(tempfile.mkdtemp(prefix="tmux-"))
        self._folder = folder
        self._code = self._sockets / "exit_code"
        self._words = words
        self._env = {"LANG": "C.UTF-8", **env, "TERM": "xterm-256color"}

    def __enter__(self) -> Self:
        (self._folder / "tmux.conf").write_text(CONFIGURATION)
        # tmux does not always learn how its command ended, so that is written to a file.
        told = f"trap : INT; {shlex.join(self._words)}; echo $? > {shlex.quote(str(self._code))}"
        command = shlex.join(("sh", "-c", told))
        columns, rows = map(str, self._size)
        shape = ("-d", "-x", columns, "-y", rows)
        session = ("new-session", *shape, "-c", str(self._folder), command)
        self._tmux("-f", str(self._folder / "tmux.conf"), *session)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._tmux("kill-server")
        shutil.rmtree(self._sockets)

    def _tmux(self, *words: str) -> str:
        done = subprocess.run(
            ["tmux", "-u", "-S", str(self._sockets / "socket"), *words],
            env=self._env,
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
        return done.stdout

    def screen(self) -> str:
        """What is on the screen, with what has scrolled away above it."""
        text = self._tmux("capture-pane", "-p", "-S", "-")
        return "\n".join(line.rstrip() for line in text.rstrip().split("\n")) + "\n"

    def until(self, true: Callable[[str], object], seconds: float = 60) -> str:
        """Wait until something is so of a screen that is not just being drawn; returns it."""
        deadline, before = time.monotonic() + seconds, ""
        for look in itertools.count():
            screen = self.screen()
            if true(screen) and (screen == before or look > MOST_LOOKS):
                return screen
            before = screen
            assert time.monotonic() < deadline, screen
            time.sleep(0.02)
        raise AssertionError

    def wait_for(self, text: str, seconds: float = 60) -> str:
        """Wait until a text is on the screen; returns the screen."""
        return self.until(lambda screen: text in screen, seconds)

    def ask_for(self, text: str) -> str:
        """Wait until a text and a prompt below it stand at the end of the screen."""
        return self.until(lambda screen: text in screen and screen.rstrip().endswith(">"))

    def type(self, text: str) -> None:
        """Type a line."""
        self._tmux("send-keys", "-l", text)
        self._tmux("send-keys", "Enter")

    def key(self, name: str) -> None:
        """Press one key, such as ``C-c``."""
        self._tmux("send-keys", name)

    def resize(self, columns: int, rows: int) -> None:
        """Change the size of the terminal."""
        self._tmux("resize-window", "-x", str(columns), "-y", str(rows))

    def end(self) -> int:
        """Wait for the end of the command; returns its exit code."""
        deadline = time.monotonic() + 60
        while not (self._code.exists() and (code := self._code.read_text())):
            assert time.monotonic() < deadline, self.screen()
            time.sleep(0.05)
        return int(code)


def normal(screen: str) -> str:
    """A screen with what differs from run to run replaced."""
    screen = re.sub(r"\brun [a-z2-9]{5}\b", "run k7f3a", screen)
    screen = re.sub(r"\b(resume|show|runs/|fractale answer)( ?)[a-z2-9]{5}\b", r"\1\2k7f3a", screen)
    screen = re.sub(r"\b\d+\.\d s\b", "0.1 s", screen)
    screen = re.sub(r"\b\d:\d\d\b", "0:00", screen)
    return re.sub(r"\nPane is dead.*\n", "\n", screen).rstrip() + "\n"
