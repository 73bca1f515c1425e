"""Dialogues with the user at the terminal, one per kind of question, while the run waits."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Collection, Mapping
from pathlib import Path
from typing import Any, Protocol

from fractale.cli.terminal import EndOfInput, TerminalInput
from fractale.errors import AnswerError
from fractale.events import Event
from fractale.masking import MASK
from fractale.questions import MISSING, Checked, read_answer, tool_of
from fractale.questions.forms import (
    defaults_of,
    properties_of,
    read_field,
    required_of,
    secret_fields,
)
from fractale.questions.kinds import expected, form_of, labels
from fractale.questions.parsing import data_of
from fractale.render import questions as shown
from fractale.render.phrases import as_json
from fractale.render.text import Line, row, table, wants_color, writable
from fractale.runs.mailbox import ANSWERED_ELSEWHERE

APPROVAL_KEYS = "  y once · a always in this run · n no · e edit · ? why"
REVIEW_KEYS = "  a accept · f feedback · e edit · r reject"
FAILURE_KEYS = "  r retry · s skip and continue · q quit"
TOOL_CHANGED_KEYS = "  a accept the change · r reject it: the tool is not used in this run"
JOB_UNKNOWN_KEYS = "  w keep waiting · s it succeeded · f it failed · a submit it again"
LOG_KEY = " · l show its job's log"
LOG = "log"
"""The name of the log in a job's directory, see `fractale.schedulers.folder`."""
FORM_WORDS = {"/decline": "decline", "/cancel": "cancel"}
"""Words that end a form without an answer → the action that the server receives."""
PAUSE_SECONDS = 1.0
"""Seconds between a question that was closed before the user answered it, and the next one."""
IN_DOUBT_KEYS = "  a call it again · f it failed · d it was done"


class Pausable(Protocol):
    """A display that can be paused while a question is on the screen."""

    def pause(self) -> None:
        """Stop drawing, until `resume`."""
        ...

    def resume(self) -> None:
        """Draw again."""
        ...


class TerminalUser:
    """Asks the user on the terminal, one question at a time; see `fractale.runs`.

    Args:
        display: Paused during each question.
        terminal: The user's terminal.
    """

    def __init__(self, display: Pausable, terminal: TerminalInput) -> None:
        self._display = display
        self._terminal = terminal
        self._run = ""
        self._gone = False
        self._was_closed = False
        self._one_at_a_time = asyncio.Lock()
        self._dialogues: dict[str, Callable[[Mapping[str, Any]], Awaitable[Any]]] = {
            "question": self._question,
            "approval": self._approval,
            "review": self._review,
            "elicitation": self._elicitation,
            "in_doubt": self._in_doubt,
            "tool_changed": self._tool_changed,
            "job_unknown": self._job_unknown,
            "failure": self._failure,
            "interrupt": self._interrupt,
        }

    def listen(self, event: Event) -> None:
        """Keep the run's id from its events, to show it in questions."""
        self._run = event.run or self._run

    def leave(self) -> None:
        """Stop asking and stop waiting for an answer, since the run is stopping."""
        self._gone = True
        self._terminal.leave()

    async def answer(self, question: Mapping[str, Any]) -> Any:
        """The user's answer to one question of the run; MISSING if the input is over."""
        async with self._one_at_a_time:
            if self._was_closed:
                # The user may be in the middle of a line for the question that was closed.
                await asyncio.sleep(PAUSE_SECONDS)
                self._was_closed = False
            if self._gone:
                return MISSING
            self._display.pause()
            try:
                self._terminal.forget_typed()
                answer = await self._dialogues[question["kind"]](question)
                self._show([])
                return Checked(answer)
            except EndOfInput:
                self._gone = True
                return MISSING
            except asyncio.CancelledError as error:
                self._was_closed = True
                if error.args == (ANSWERED_ELSEWHERE,):
                    self._show(row("  answered elsewhere; what you type here is not used", "warn"))
                raise
            finally:
                self._display.resume()

    # -- shared by all dialogues ----------------------------------------------------------------

    def _show(self, *lines: Line) -> None:
        self._terminal.show(*lines)

    def _read(self, question: Mapping[str, Any], raw: Any) -> Any:
        """The answer; MISSING if it is invalid, after printing why."""
        try:
            return read_answer(question, raw)
        except AnswerError as error:
            self._complain(error)
            return MISSING

    def _complain(self, error: AnswerError) -> None:
        self._show([("  ", ""), (shown.inert(error.message), "warn")])
        if error.hint:
            self._show(row(f"  {shown.inert(error.hint)}"))

    async def _key(self, keys: str, letters: str) -> str:
        """Ask until the user types one of the letters."""
        self._show(row(keys))
        while True:
            key = (await self._terminal.line()).strip().casefold()
            if len(key) == 1 and key in letters:
                return key
            self._show(row(f"  one of: {', '.join(letters)}"))

    # -- questions ------------------------------------------------------------------------------

    async def _question(self, question: Mapping[str, Any]) -> Any:
        self._show(*shown.question_lines(question, self._run))
        if form := form_of(question):
            return await self._form(question, form)
        other = labels(question)[-1] if question["choices"] and question["free"] else None
        while True:
            text = await self._terminal.line()
            if other is not None and text.strip() == other:
                text = await self._terminal.line("  what? > ")
                if text.strip():
                    return text
                continue
            if (answer := self._read(question, text)) is not MISSING:
                return await self._with_text(question, answer)

    async def _with_text(self, question: Mapping[str, Any], answer: Any) -> Any:
        """The answer with the text that goes with the choice, if the question asks for one."""
        asked = table(question, "follow_up")
        if not isinstance(answer, str) or answer not in asked:
            return answer
        self._show(*shown.prose(str(asked[answer])))
        text = await self._terminal.line("  (Enter: no text) > ")
        return self._read(question, {"answer": answer, "text": text.strip()})

    async def _form(self, question: Mapping[str, Any], form: Mapping[str, Any]) -> Any:
        while True:
            content = await fill_fields(self._terminal, form)
            if (answer := self._read(question, content)) is MISSING:
                continue
            self._show(*(row(f"    {line}") for line in shown.arguments_lines(answer)))
            if await self._key("  y answer with this · n start again", "yn") == "y":
                return answer

    async def _approval(self, question: Mapping[str, Any]) -> Any:
        self._show(*shown.approval_lines(question, self._run))
        while True:
            key = await self._key(APPROVAL_KEYS, "yane?")
            if key == "?":
                self._show(*_why(question))
            elif key == "a":
                if (answer := await self._always(question)) is not MISSING:
                    return answer
            elif key != "e":
                return self._read(question, key)
            elif (arguments := await self._edited(question["arguments"])) is not None:
                question = {**question, "arguments": arguments}
                self._show(*shown.approval_lines(question, self._run))
                if await self._key("  y call it with these arguments · n back", "yn") == "y":
                    return {"arguments": arguments}

    async def _always(self, question: Mapping[str, Any]) -> Any:
        """The answer that also covers later calls; MISSING if the user goes back."""
        names = list(question["arguments"])
        if not names:
            return self._read(question, "always")
        tool = shown.exact(tool_of(question))
        listed = shown.exact(",".join(names))
        self._show(
            row(f"  fractale makes later calls of {tool} in this run without asking, as long as"),
            row(f"  these arguments stay the same: {listed}"),
        )
        text = await self._terminal.line(
            "  Enter all of them · or some, such as a,b · none · b back > "
        )
        word = text.strip()
        if word.casefold() in ("b", "back") and word not in names:
            return MISSING
        if word.casefold() == "none" and word not in names:
            return self._read(question, "always")
        chosen: Any = [name.strip() for name in word.split(",") if name.strip()]
        if not chosen or (word.casefold() == "all" and word not in names):
            chosen = "all"
        return self._read(question, {"always": {"fix": chosen}})

    async def _edited(self, arguments: Mapping[str, Any]) -> dict[str, Any] | None:
        """The arguments with the user's changes; None if there are none."""
        text = await self._edited_text(dict(arguments))
        if text is None or not text.strip():
            return None
        try:
            data = data_of(text)
        except AnswerError as error:
            self._complain(error)
            return None
        if not isinstance(data, dict):
            self._show(row("  arguments must be a mapping of names to values", "warn"))
            return None
        return data  # pyright: ignore[reportUnknownVariableType] - JSON that a user wrote

    async def _edited_text(self, data: dict[str, Any]) -> str | None:
        from fractale.plan.dump import dump_data

        if self._terminal.has_editor:
            return await self._terminal.edit(dump_data(data))
        self._show(row(f"  {shown.exact(shown.as_json(data))}"))
        return await self._terminal.line("  the arguments as JSON > ")

    async def _review(self, question: Mapping[str, Any]) -> Any:
        self._show(*shown.review_lines(question, self._run))
        show_plan(self._terminal, question)
        while True:
            key = await self._key(REVIEW_KEYS, "afer")
            if key in "ar":
                return self._read(question, key)
            if key == "f":
                text = await self._terminal.line("  what should change? > ")
                if text.strip():
                    return {"feedback": text.strip()}
            elif (plan := await self._edited_plan(question["plan"])) is not None:
                return {"plan": plan}

    async def _edited_plan(self, plan: str) -> str | None:
        if self._terminal.has_editor:
            return await self._terminal.edit(plan)
        path = await self._terminal.line("  a file with the changed plan > ")
        if not path.strip():
            return None
        try:
            return Path(path.strip()).expanduser().read_text(encoding="utf-8")  # noqa: ASYNC240 - one small file
        except (OSError, UnicodeDecodeError) as error:
            self._show([("  ", ""), (f"{path}: {error}", "warn")])
            return None

    async def _elicitation(self, question: Mapping[str, Any]) -> Any:
        self._show(*shown.elicitation_lines(question, self._run))
        while True:
            raw = await fill_form(self._terminal, question["schema"])
            if (answer := self._read(question, raw)) is not MISSING:
                return answer

    async def _in_doubt(self, question: Mapping[str, Any]) -> Any:
        self._show(*shown.in_doubt_lines(question, self._run))
        key = await self._key(IN_DOUBT_KEYS, "afd")
        if key != "d":
            return self._read(question, key)
        while True:
            text = await self._terminal.line("  its outputs as JSON, Enter for none > ")
            raw = f'{{"outputs": {text.strip() or "{}"}}}'
            if (answer := self._read(question, raw)) is not MISSING:
                return answer

    async def _interrupt(self, question: Mapping[str, Any]) -> Any:
        self._show(*shown.interrupt_lines(question, self._run))
        self._show(row(f"  answer with: {shown.inert(expected(question))}"))
        while True:
            text = await self._terminal.line("  > ")
            if (answer := self._read(question, text)) is not MISSING:
                return answer

    async def _tool_changed(self, question: Mapping[str, Any]) -> Any:
        self._show(*shown.tool_changed_lines(question, self._run))
        return self._read(question, await self._key(TOOL_CHANGED_KEYS, "ar"))

    async def _job_unknown(self, question: Mapping[str, Any]) -> Any:
        self._show(*shown.job_unknown_lines(question, self._run))
        directory = str(question.get("folder") or "")
        log = Path(directory) / LOG if directory else None
        key = await self._key_or_log(JOB_UNKNOWN_KEYS, "wsfa", log)
        return self._read(question, key)

    async def _failure(self, question: Mapping[str, Any]) -> Any:
        self._show(*shown.failure_lines(question, self._run))
        log = str(question.get("log") or "")
        key = await self._key_or_log(FAILURE_KEYS, "rsq", Path(log) if log else None)
        return self._read(question, key)

    async def _key_or_log(self, keys: str, letters: str, log: Path | None) -> str:
        """Ask for one of the letters, and show the end of a job's log as often as requested."""
        if log is None:
            return await self._key(keys, letters)
        while (key := await self._key(keys + LOG_KEY, f"{letters}l")) == "l":
            self._show(*shown.log_lines(log))
        return key


def _why(question: Mapping[str, Any]) -> list[Line]:
    """The reason for a question, and the effect of each answer."""
    tool = shown.exact(tool_of(question))
    return [
        *shown.prose(f"fractale asks because {question['why']}." if question["why"] else ""),
        row(f"  y   call {tool} once, with exactly these arguments"),
        row(
            f"  a   also later calls of {tool} in this run; you choose the arguments that must stay"
        ),
        row("  n   do not call it; the step or the model is informed"),
        row("  e   change the arguments, see them again, and decide then"),
    ]


# A server's question, asked field by field


async def fill_form(terminal: TerminalInput, schema: Mapping[str, Any]) -> dict[str, Any]:
    """Ask for each field that a server wants; the user has seen every value before it is sent.

    Returns:
        ``{action: accept, content: {...}}``, ``{action: decline}`` or ``{action: cancel}``.
    """
    names = list(properties_of(schema))
    if not names:
        return await _send(terminal, {})
    terminal.show(row("  (/decline refuses to answer, /cancel cancels the request)", "dim"))
    content: dict[str, Any] = {}
    for name in names:
        raw = await _field(terminal, name, schema)
        if isinstance(raw, str) and raw in FORM_WORDS:
            return {"action": FORM_WORDS[raw]}
        if raw is not None:
            content[name] = raw
    if len(names) == 1:
        return {"action": "accept", "content": content}
    hidden = dict.fromkeys(secret_fields(schema) & content.keys(), MASK)
    lines = shown.arguments_lines({**content, **hidden})
    terminal.show(*(row(f"    {line}") for line in lines))
    return await _send(terminal, content)


async def fill_fields(terminal: TerminalInput, form: Mapping[str, Any]) -> dict[str, Any]:
    """Ask for each field of a plan's question."""
    values = {name: await _field(terminal, name, form, ()) for name in properties_of(form)}
    return {name: value for name, value in values.items() if value is not None}


async def _send(terminal: TerminalInput, content: dict[str, Any]) -> dict[str, Any]:
    terminal.show(row("  y send it · n decline · c cancel"))
    while True:
        key = (await terminal.line()).strip().casefold()
        if key == "y":
            return {"action": "accept", "content": content}
        if key in ("n", "c"):
            return {"action": "decline" if key == "n" else "cancel"}
        terminal.show(row("  one of: y, n, c"))


async def _field(
    terminal: TerminalInput,
    name: str,
    schema: Mapping[str, Any],
    endings: Collection[str] = FORM_WORDS,
) -> Any:
    """One field's value; None if it is left out, or one of the words that end the form."""
    terminal.show(*(row(f"  {line}") for line in shown.field_lines(name, schema)))
    defaults = defaults_of(schema)
    prompt = f"  [{shown.exact(as_json(defaults[name]))}] > " if name in defaults else "  > "
    secret = name in secret_fields(schema)
    if secret:
        terminal.show(row("  (secret: your input is neither shown nor stored)", "dim"))
        prompt = "  > "
    while True:
        text = await terminal.line(prompt, hidden=secret)
        if text.strip() in endings:
            return text.strip()
        if not text.strip():
            if name in defaults:
                return defaults[name]
            if name not in required_of(schema):
                return None
            terminal.show(row("  this field is required", "warn"))
            continue
        try:
            return read_field(properties_of(schema)[name], text)
        except AnswerError as error:
            words = "not a valid value" if secret else shown.inert(error.message)
            terminal.show([("  ", ""), (words, "warn")])


# A drafted plan: its YAML in color, and the changes since the last draft


def show_plan(terminal: TerminalInput, question: Mapping[str, Any]) -> None:
    """Show a draft in full; the changes come last, close to the prompt."""
    text = shown.exact(str(question["plan"])).rstrip("\n")
    terminal.show([])
    if terminal.highlights and wants_color(sys.stderr):
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
