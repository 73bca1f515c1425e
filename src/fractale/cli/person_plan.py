"""A drafted plan on the terminal: its YAML in colour, and what changed since the last draft."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from fractale.cli.person_input import TerminalInput
from fractale.cli.render import questions as shown
from fractale.cli.render.text import row, wants_color, writable


def show_plan(terminal: TerminalInput, question: Mapping[str, Any]) -> None:
    """Show a draft in full; what changed comes last, where the eye is."""
    text = shown.exact(str(question["plan"])).rstrip("\n")
    terminal.show([])
    if wants_color(sys.stderr):
        _highlight(text)
    else:
        terminal.show(*(row(f"  {line}") for line in text.split("\n")))
    terminal.show([])
    if changes := question.get("changes"):
        terminal.show(*shown.changes_lines(str(changes)), [])


def _highlight(text: str) -> None:
    from rich.console import Console
    from rich.padding import Padding
    from rich.syntax import Syntax

    console = Console(file=sys.stderr, markup=False, emoji=False, highlight=False)
    shown_text = writable(text, sys.stderr.encoding)
    syntax = Syntax(
        shown_text, "yaml", theme="ansi_dark", background_color="default", word_wrap=True
    )
    console.print(Padding(syntax, (0, 0, 0, 2)))
