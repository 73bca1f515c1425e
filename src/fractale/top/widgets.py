"""The widgets of `fractale top`: lines of text that scroll, and single lines.

They draw segments of plain text. No text of theirs is ever read as markup.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from rich.cells import cell_len
from rich.segment import Segment
from rich.style import Style
from textual.geometry import Size
from textual.scroll_view import ScrollView
from textual.strip import Strip
from textual.widget import Widget

from fractale.render.text import Line, Mark
from fractale.top.letters import Letters, cut

if TYPE_CHECKING:
    from textual.app import RenderResult

COLORS: Final[dict[Mark, Style]] = {
    "": Style(),
    "good": Style(color="green"),
    "bad": Style(color="red"),
    "now": Style(color="cyan"),
    "warn": Style(color="yellow"),
    "dim": Style(dim=True),
}
WITHOUT_COLOR: Final[dict[Mark, Style]] = {
    "": Style(),
    "good": Style(),
    "bad": Style(bold=True),
    "now": Style(),
    "warn": Style(bold=True),
    "dim": Style(),
}
REVERSE: Final = Style(reverse=True)


class Palette:
    """How lines become strips of the screen.

    Args:
        color: Whether marks are colors; else some are bold.
    """

    def __init__(self, letters: Letters, *, color: bool) -> None:
        self.letters = letters
        self._styles = COLORS if color else WITHOUT_COLOR

    def strip(self, line: Line, width: int, *, reverse: bool = False) -> Strip:
        """A line as a strip of exactly this width."""
        drawn = cut(self.letters.line(line), width)
        over = REVERSE if reverse else Style()
        segments = [Segment(text, self._styles[mark] + over) for text, mark in drawn if text]
        strip = Strip(segments, sum(cell_len(each.text) for each in segments))
        return strip.adjust_cell_length(width, over)


class Bar(Widget):
    """One line, such as a heading or the keys."""

    DEFAULT_CSS = "Bar { height: 1; width: 1fr; }"

    def __init__(self, palette: Palette, *, id: str, reverse: bool = False) -> None:  # noqa: A002 - Textual's name
        super().__init__(id=id)
        self._palette = palette
        self._line: Line = []
        self._reverse = reverse

    @property
    def text(self) -> str:
        return "".join(text for text, _ in self._line)

    def show(self, line: Line) -> None:
        """Draw another line, if it differs."""
        if line != self._line:
            self._line = line
            self.refresh()

    def render_line(self, y: int) -> Strip:
        del y
        return self._palette.strip(self._line, self.size.width, reverse=self._reverse)

    def render(self) -> RenderResult:
        return self.text  # not used: `render_line` draws


class ScrolledLines(ScrollView, can_focus=False):
    """Lines that scroll, with or without a cursor."""

    DEFAULT_CSS = """
    ScrolledLines { height: 1fr; width: 1fr; scrollbar-size: 0 0; overflow-x: hidden; }
    """

    def __init__(self, palette: Palette, *, id: str) -> None:  # noqa: A002 - Textual's name
        super().__init__(id=id)
        self._palette = palette
        self._lines: list[Line] = []
        self._cursor: int | None = None

    @property
    def lines(self) -> Sequence[Line]:
        return self._lines

    @property
    def top(self) -> int:
        """The first line on the screen."""
        return self.scroll_offset.y

    @property
    def below(self) -> int:
        """How many lines are below the screen."""
        return max(len(self._lines) - self.top - self.size.height, 0)

    def show(self, lines: list[Line], cursor: int | None = None) -> None:
        """Draw other lines, as far as they differ; the place in them stays.

        Args:
            cursor: The line that is marked, and kept on the screen.
        """
        known, self._lines = self._lines, lines
        old, self._cursor = self._cursor, cursor
        if len(known) != len(lines):
            self.virtual_size = Size(self.size.width, len(lines))
        if cursor is not None:
            self._keep_on_screen(cursor)
        if known != lines or old != cursor:
            self.refresh()

    def _keep_on_screen(self, number: int) -> None:
        height, top = max(self.size.height, 1), self.top
        if number < top:
            self.move_to(number)
        elif number >= top + height:
            self.move_to(number - height + 1)

    def move_to(self, first: int) -> None:
        """Scroll so that this line is the first on the screen, as far as there are enough."""
        most = max(len(self._lines) - self.size.height, 0)
        self.scroll_to(y=min(max(first, 0), most), animate=False, immediate=True)

    def move_by(self, number: int) -> None:
        self.move_to(self.top + number)

    def to_end(self) -> None:
        self.move_to(len(self._lines))

    def render_line(self, y: int) -> Strip:
        number = y + self.top
        line = self._lines[number] if number < len(self._lines) else []
        return self._palette.strip(line, self.size.width, reverse=number == self._cursor)
