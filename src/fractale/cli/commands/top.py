"""``fractale top``: the runs in a terminal, as they go."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import click

from fractale.cli import options
from fractale.cli.terminal import EndOfInput, TerminalInput, editor_of
from fractale.render.text import Line
from fractale.settings.files import PROJECT_FOLDER

if TYPE_CHECKING:
    from fractale.settings import Settings
    from fractale.top.conversation import Conversation

PACKAGES: Final = ("textual",)
"""Those of the extra `top`."""
MONOCHROME: Final = ("vt52", "vt100", "vt102", "vt220", "vt320")


@click.command("top")
def command() -> int:
    """Show all runs as they go, and act on them.

    \b
    fractale top                      the runs of this project
    FRACTALE_STATE_DIR=DIR fractale top

    Choose a run with the arrow keys. Enter opens it: its steps, calls, jobs, and what a model is
    writing. `a` answers its question, `l` follows the log of its job, `c` cancels it, `r` resumes
    it, `f` forks it. `/` filters, `?` shows all keys, `q` leaves. Runs keep running when you leave.

    Needs the extra `top`: pip install 'fractale[top]>=0.2'. Without it, and without a terminal, use
    `fractale runs` and `fractale watch`.
    """
    from fractale.errors import DependencyMissing, UsageError

    settings = options.settings_of(acts=True)
    if not (sys.stdin.isatty() and sys.stderr.isatty()) or os.environ.get("TERM") == "dumb":
        raise UsageError(
            "`fractale top` needs a terminal",
            hint="list the runs with `fractale runs`, or follow one with `fractale watch RUN`",
        )
    try:
        from fractale.top.app import TopApp
        from fractale.top.letters import is_utf8
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in PACKAGES:
            raise
        raise DependencyMissing(
            f"`fractale top` needs the package `{error.name}`",
            hint="pip install 'fractale[top]'; until then use `fractale runs` and `fractale watch`",
        ) from error
    from fractale import cli
    from fractale.runs.actions import Actions
    from fractale.settings import allows_color

    environment = dict(os.environ)
    term = environment.get("TERM", "")
    app = TopApp(
        settings.state_dir,
        Actions(settings, by="fractale top"),
        ask,
        place=_place(settings),
        environment=environment,
        unicode=is_utf8(environment, sys.stderr.encoding),
        color=allows_color() and term not in MONOCHROME and not term.endswith(("-m", "-mono")),
    )
    cli.started()
    app.run(mouse=False)
    if app.failure is not None:
        raise app.failure
    return app.return_code or 0


async def ask(talk: Conversation, question: Mapping[str, Any]) -> Any:
    """Ask one question as at a terminal, in a conversation on the screen.

    Returns:
        The answer as `fractale.questions.read_answer` returns it; MISSING if the user left.
    """
    from fractale.cli.dialogue import TerminalUser
    from fractale.questions import MISSING

    user = TerminalUser(_Still(), _ScreenInput(talk))
    answer = await user.answer(question)
    return answer if answer is MISSING else answer.value


def _place(settings: Settings) -> str:
    """The directory of the runs, from the home directory on: ``~/melt``."""
    path = settings.state_dir.absolute()
    path = path.parent if path.name == PROJECT_FOLDER else path
    home = settings.environment.get("HOME", "")
    try:
        return f"~/{path.relative_to(home)}" if home and str(path) != home else str(path)
    except ValueError:
        return str(path)


class _Still:
    """A display with nothing that moves."""

    def pause(self) -> None:
        """Nothing moves."""

    def resume(self) -> None:
        """Nothing moved."""


class _ScreenInput(TerminalInput):
    """A conversation on the screen, in the place of the terminal's input.

    Args:
        talk: The conversation. Nothing is read from the terminal itself.
    """

    def __init__(self, talk: Conversation) -> None:  # pyright: ignore[reportMissingSuperCall]
        self._talk = talk
        self._descriptor = 0
        self._editor = editor_of(talk.environment)
        self._left = talk.left

    highlights = False

    def forget_typed(self) -> None:
        """The screen of a conversation drops input from before it was shown."""

    def show(self, *lines: Line) -> None:
        self._talk.show(*lines)

    async def line(self, prompt: str = "> ", *, hidden: bool = False) -> str:
        from fractale.top.conversation import ConversationLeft

        try:
            return await self._talk.line(prompt, hidden=hidden)
        except ConversationLeft as error:
            raise EndOfInput from error

    def leave(self) -> None:
        self._talk.leave()

    async def edit(self, text: str) -> str | None:
        return await self._talk.suspended(lambda: super(_ScreenInput, self).edit(text))
