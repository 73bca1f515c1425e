"""Separate the thoughts of a reasoning model from its answer.

A server with the right reasoning parser sends thoughts in a separate field. Without a parser,
thoughts are in the text, inside the marks of the model's training. Only blocks that begin the text
or a line count: an answer may quote such marks in a sentence or a code block.

Sources: the chat templates of the models named below, and the reasoning parsers of vLLM and
llama.cpp.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from typing import NamedTuple

MARKS = (
    ("<think>", "</think>"),  # DeepSeek R1, Qwen 3, GLM, Nemotron, MiniMax, Phi 4 and others
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),  # EXAONE
    ("<reasoning>", "</reasoning>"),
    ("<seed:think>", "</seed:think>"),  # Seed-OSS
    ("[think]", "[/think]"),  # Magistral
    ("◁think▷", "◁/think▷"),  # Kimi
    ("<|start_thinking|>", "<|end_thinking|>"),  # Command
    ("<|inner_prefix|>", "<|inner_suffix|>"),  # Apertus
    ("<|begin_of_thought|>", "<|end_of_thought|>"),  # OpenThinker
    ("<|channel>thought", "<channel|>"),  # Gemma 4
)
"""Start and end marks of thoughts, in lower case."""

ENDS = re.compile("|".join(re.escape(end) for _, end in MARKS), re.IGNORECASE)

LINE_STARTS = re.compile(
    rf"^[ \t]*(?P<mark>{'|'.join(re.escape(start) for start, _ in MARKS)})",
    re.IGNORECASE | re.MULTILINE,
)

WRAPPERS = re.compile(
    r"\s*(?:<answer>(.*?)(?:</answer>)?"
    r"|<response>(.*?)(?:</response>)?"
    r"|<\|START_RESPONSE\|>(.*?)(?:<\|END_RESPONSE\|>)?"
    r"|<\|begin_of_solution\|>(.*?)(?:<\|end_of_solution\|>)?)\s*",
    re.DOTALL,
)
"""Marks that such models put around the answer after their thoughts."""

HARMONY = ("<|channel|>", "<|start|>assistant")
"""Possible starts of a text in the channels of gpt-oss."""

CHANNEL = re.compile(
    r"<\|channel\|>\s*(?P<channel>\w+)(?P<head>[^<]*)(?:<\|constrain\|>[^<]*)?<\|message\|>"
    r"(?P<body>.*?)(?=<\|(?:end|return|call|start|channel)\|>|\Z)",
    re.DOTALL,
)

BARE_HARMONY = re.compile(r"\s*analysis(?P<thoughts>\S.*?)assistantfinal(?P<answer>.*)", re.DOTALL)
"""The same channels if the server removed their special tokens from the text."""

MOST_ENDS = 100
"""The most end marks to examine, so that the time stays linear in the text."""

QUOTES = "`'\"\\"


class Parted(NamedTuple):
    """A text, split into thoughts and answer.

    Args:
        answer: Empty if the text has only thoughts.
        unmarked: Whether the thoughts had an end mark but no start mark.
    """

    answer: str
    thoughts: str
    unmarked: bool = False


def without_thoughts(text: str) -> Parted:
    """Remove the thoughts from a model's text.

    Three kinds of text are thoughts:

    - marked blocks at the start, even without an end mark;
    - whole blocks that begin a line;
    - all text before a lone end mark: some chat templates put the start mark into the prompt.

    A mark in quotes or in a code block is part of the answer.
    """
    stripped = text.lstrip()
    if stripped.startswith(HARMONY):
        return _of_channels(stripped)
    if bare := BARE_HARMONY.match(text):
        return Parted(bare["answer"].strip(), bare["thoughts"].strip())
    rest, thoughts = text, list[str]()
    while (opened := _opening(rest)) is not None:
        start, end = opened
        body = rest.lstrip()[len(start) :]
        closed = _find(end, body)
        if closed < 0:
            return Parted("", "\n".join([*thoughts, body.strip()]))
        thoughts.append(body[:closed].strip())
        rest = body[closed + len(end) :]
    rest, more = _without_blocks(rest)
    thoughts += more
    last = _last_lone_end(rest)
    unmarked = last is not None and not thoughts
    if last is not None:
        thoughts.append(rest[: last.start()].strip())
        rest = rest[last.end() :]
    if not thoughts:
        return Parted(text, "")
    return Parted(_unwrapped(rest).strip(), "\n".join(thoughts), unmarked)


def _without_blocks(text: str) -> tuple[str, list[str]]:
    """Return the text without the blocks of thoughts that begin a line, and these blocks."""
    kept, thoughts, position = list[str](), list[str](), 0
    for match in itertools.islice(LINE_STARTS.finditer(text), MOST_ENDS):
        end = next(end for start, end in MARKS if start == match["mark"].lower())
        closed = _find(end, text, match.end())
        if closed < 0 or match.start() < position or text[: match.start()].count("```") % 2:
            continue
        kept.append(text[position : match.start()])
        thoughts.append(text[match.end() : closed].strip())
        position = closed + len(end)
    return "".join([*kept, text[position:]]), thoughts


def _find(mark: str, text: str, start: int = 0) -> int:
    """The position of a mark, ignoring case; -1 if it does not occur."""
    found = re.compile(re.escape(mark), re.IGNORECASE).search(text, start)  # lower() shifts indices
    return found.start() if found else -1


def _opening(text: str) -> tuple[str, str] | None:
    start = text.lstrip()[:30].lower()
    return next((marks for marks in MARKS if start.startswith(marks[0])), None)


def _last_lone_end(text: str) -> re.Match[str] | None:
    """The last end mark that has no start mark before it and is not in quotes."""
    found: re.Match[str] | None = None
    for match in itertools.islice(ENDS.finditer(text), MOST_ENDS):
        start = next(start for start, end in MARKS if end == match[0].lower())
        before = text[: match.start()]
        if start in before.lower() or before.count("```") % 2:
            break
        if before[-1:] not in QUOTES or not before:
            found = match
    return found


def _unwrapped(text: str) -> str:
    wrapped = WRAPPERS.fullmatch(text)
    return next((part for part in wrapped.groups() if part is not None), "") if wrapped else text


def _of_channels(text: str) -> Parted:
    """Read the answer from the channel `final`; keep calls in `commentary` for later checks."""
    parts = list(CHANNEL.finditer(text))
    final = [part["body"].strip() for part in parts if part["channel"] == "final"]
    calls = [part[0] for part in parts if "to=" in part["head"]]
    answer = final or calls
    thoughts = [part["body"].strip() for part in parts if part["channel"] != "final"]
    return Parted("\n".join(answer), "\n".join(thoughts))


class AnswerStream:
    """Passes on the pieces of a streamed text, without the thoughts at its start.

    Args:
        on_text: Receives the pieces of the answer.
        hold: Whether to hold back everything until the end: for a model whose thoughts have no
            start mark.
    """

    def __init__(self, on_text: Callable[[str], None], *, hold: bool = False) -> None:
        self._on_text = on_text
        self._pending = ""
        self._answering = False
        self._thought = False
        self._hold = hold

    def feed(self, piece: str) -> None:
        """Add the next piece of the text."""
        if self._answering:
            self._on_text(piece)
            return
        self._pending += piece
        if not self._hold:
            self._advance()

    def _advance(self) -> None:
        while True:
            start = self._pending.lstrip().lower()
            if not start or self._may_be_a_mark(start):
                return
            marks = _opening(self._pending)
            if marks is None:
                self._pass_on(self._pending)
                return
            body = self._pending.lstrip()
            closed = _find(marks[1], body)
            if closed < 0:
                return
            self._pending = body[closed + len(marks[1]) :]
            self._thought = True

    def _may_be_a_mark(self, start: str) -> bool:
        marks = [mark for mark, _ in MARKS]
        return start.startswith(HARMONY) or any(
            mark.startswith(start) and mark != start for mark in (*marks, *HARMONY)
        )

    def _pass_on(self, text: str) -> None:
        self._answering = True
        self._pending = ""
        if text := text.lstrip() if self._thought else text:
            self._on_text(text)

    def end(self, answer: str) -> None:
        """Pass on the part of the whole answer that is still held back."""
        if not self._answering:
            self._pass_on(answer)
