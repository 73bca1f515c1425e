"""Finds commands, variables and comments in the text of a shell script.

This is not a shell: it finds the bounds of words, expansions, comments and here-documents, as in
POSIX's "Shell Command Language" (2.2 quoting, 2.6 expansions, 2.7.4 here-documents). So a caller
can replace a word and keep all other text. Invalid text gives some result, and never an error.
"""

from __future__ import annotations

import bisect
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

Context = Literal["plain", "quoted", "document", "arithmetic"]

_TOKEN: Final = re.compile(
    r"""
      (?P<blank>(?:[ \t\r\f\v]|\\\r?\n)+)
    | (?P<newline>\n)
    | (?P<plain>[^\s'"\\$`#;&|()<>]+)
    | (?P<single>'[^']*(?:'|\Z))
    | (?P<double>")
    | (?P<dollar>\$)
    | (?P<hash>\#)
    | (?P<redirect>&>>?|<<<|<<-?|[<>]+[&|]?)
    | (?P<operator>;;?&?|&&|\|[|&]?|&)
    | (?P<open>\()
    | (?P<close>\))
    | (?P<back>`)
    | (?P<escape>\\[\s\S]?)
    """,
    re.VERBOSE,
)
_COMPLETE: Final = re.compile(
    r"""
    (?:
        (?>
            [^\n'"\\`(<#$]+
          | "(?>[^\n"\\`$]+|\$\w|\$\{\w+\})*"
          | \$(?:\([^\n'"\\`()<#]*\)|\{[^\n'"\\`${}]*\}|(?![({]))
          | '[^\n'\\]*'
          | <(?![<(])
        )*
        (?:(?<!\S)\#[^\n]*)?
        \n
    )+
    """,
    re.VERBOSE,
)
"""Lines that leave no quote, substitution or here-document open."""
_QUOTED: Final = re.compile(r'[^"\\$`]+|\\[\s\S]?|["$`]')
_INNER: Final = re.compile(r"[^}'\"\\$`]+|\\[\s\S]?|'[^']*(?:'|\Z)|[}\"$`]")
_ARITHMETIC: Final = re.compile(r"[^()$`A-Za-z_0-9]+|[A-Za-z_]\w*|\d\w*|[()$`]")
_NAMED: Final = re.compile(r"\$([A-Za-z_]\w*)")
_BRACED: Final = re.compile(r"\$\{([#!]?)([A-Za-z_]\w*)")
_CSH: Final = re.compile(r"\$[?#]([A-Za-z_]\w*)")
_DELIMITER: Final = re.compile(r"[ \t]*((?:'[^'\n]*'|\"[^\"\n]*\"|\\.|[^\s;&|()<>'\"\\])+)")
_DEEPEST: Final = 60
"""The deepest nesting of substitutions; deeper ones are read as plain text."""
_KEYWORDS: Final = frozenset({"if", "then", "else", "elif", "do", "while", "until", "{", "!"})


@dataclass(frozen=True, slots=True)
class Word:
    """A word of a command, by its bounds in the text.

    Args:
        redirect: Whether the word is the file of a redirection.
    """

    start: int
    end: int
    redirect: bool = False


@dataclass(slots=True)
class Command:
    """A simple command.

    Args:
        piped: Whether another command reads its output.
        depth: Number of command substitutions and subshells around it.
    """

    words: list[Word]
    piped: bool = False
    depth: int = 0


@dataclass(frozen=True, slots=True)
class Variable:
    """An expanded variable.

    Args:
        start, end: Bounds of its name.
        first, last: Bounds of the whole expansion.
        rest: The text after the name in ``${NAME…}``.
        back: Whether it is in backticks inside double quotes, where quotes have no effect.
        length: Whether it is ``${#NAME}``, ``${!NAME}`` or csh's ``$?NAME``.
    """

    name: str
    start: int
    end: int
    first: int
    last: int
    context: Context
    rest: str = ""
    back: bool = False
    length: bool = False


@dataclass(slots=True)
class ShellText:
    """The commands, variables and other spans in a text.

    Args:
        comments: Bounds of each comment.
        quiet: Spans without expansions: single quotes, here-documents with a quoted delimiter.
        documents: Spans of here-documents.
    """

    commands: list[Command] = field(default_factory=list[Command])
    variables: list[Variable] = field(default_factory=list[Variable])
    comments: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])
    quiet: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])
    documents: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])


@dataclass(slots=True)
class _Frame:
    """A list of commands during reading, up to its closing mark."""

    close: str
    words: list[Word] = field(default_factory=list[Word])
    begin: int = -1
    redirect: bool = False
    cases: int = 0
    list_of_words: bool = False


class _Scanner:
    def __init__(
        self, text: str, start: int, end: int, *, csh: bool, places: Sequence[int] = ()
    ) -> None:
        self.text, self.end, self.csh, self.places = text, end, csh, places
        self.found = ShellText()
        self.documents: list[tuple[str, bool, bool]] = []
        self.depth = 0
        self.back = False
        self.no_arithmetic: set[int] = set()
        self.last_arithmetic = text.rfind("))", start, end)
        self.commands(self._skip(start) if places else start, "")

    # Lists of commands.

    def commands(self, at: int, close: str, *, list_of_words: bool = False) -> int:
        """Read commands up to the closing mark; returns the position after it."""
        frame = _Frame(close, list_of_words=list_of_words)
        text, end, match = self.text, self.end, _TOKEN.match
        while at < end:
            token = match(text, at, end)
            if token is None:  # a control character
                at += 1
                continue
            kind = token.lastgroup
            if kind == "blank":
                self._end_word(frame, at)
                at = token.end()
                continue
            if kind in ("plain", "single", "escape"):
                if frame.begin < 0:
                    frame.begin = at
                if kind == "single":
                    self.found.quiet.append(token.span())
                at = token.end()
                continue
            after, over = self._special(frame, str(kind), token, at)
            if over:
                return after
            at = after
        self._end_command(frame, end)
        return end

    def _special(self, frame: _Frame, kind: str, token: re.Match[str], at: int) -> tuple[int, bool]:
        """Handle a token; returns the next position, and whether the list is over."""
        if kind == "newline":
            self._end_command(frame, at)
            after = self._documents(at + 1) if self.documents else at + 1
            return (after if frame.close else self._skip(after)), False
        if kind == "operator":
            self._end_command(frame, at, piped=token[0] in ("|", "|&"))
        elif kind == "redirect":
            return self._redirect(frame, token, at), False
        elif kind == "close":
            return self._close(frame, at)
        elif kind == "back" and frame.close == "`":
            self._end_command(frame, at)
            return at + 1, True
        else:
            return self._opening(frame, kind, at), False
        return token.end(), False

    def _skip(self, at: int) -> int:
        """Skip complete lines, up to the next position of interest."""
        if not self.places:
            return at
        following = bisect.bisect_left(self.places, at)
        if following == len(self.places):
            return self.end
        limit = self.text.rfind("\n", at, self.places[following]) + 1
        lines = _COMPLETE.match(self.text, at, min(limit, self.end)) if limit > at else None
        return lines.end() if lines else at

    def _opening(self, frame: _Frame, kind: str, at: int) -> int:
        if kind == "hash":
            return self._hash(frame, at)
        if kind == "open":
            return self._open(frame, at)
        if frame.begin < 0:
            frame.begin = at
        if kind == "double":
            return self.quoted(at + 1)
        if kind == "dollar":
            return self.dollar(at, "plain")
        return self._backticks(at, tight=False)

    def _hash(self, frame: _Frame, at: int) -> int:
        if frame.begin >= 0:
            return at + 1
        over = self.text.find("\n", at, self.end)
        over = self.end if over < 0 else over
        self.found.comments.append((at, over))
        return over

    def _open(self, frame: _Frame, at: int) -> int:
        if frame.begin >= 0 and self.text[at - 1] == "=":  # NAME=(a b c)
            return self._nested(at + 1, ")", list_of_words=True)
        if frame.begin < 0 and not frame.words and self.text.startswith("((", at):
            after = self.arithmetic(at + 2)
            if after:
                return after
        self._end_command(frame, at)
        return self._nested(at + 1, ")")

    def _close(self, frame: _Frame, at: int) -> tuple[int, bool]:
        self._end_command(frame, at)
        return at + 1, frame.close == ")" and not frame.cases

    def _nested(self, at: int, close: str, *, list_of_words: bool = False) -> int:
        if self.depth >= _DEEPEST:
            return at
        self.depth += 1
        after = self.commands(at, close, list_of_words=list_of_words)
        self.depth -= 1
        return after

    def _backticks(self, at: int, *, tight: bool = True) -> int:
        outer, self.back = self.back, self.back or tight
        after = self._nested(at + 1, "`")
        self.back = outer
        return after

    def _end_word(self, frame: _Frame, at: int) -> None:
        if frame.begin < 0:
            return
        begin, frame.begin = frame.begin, -1
        redirect, frame.redirect = frame.redirect, False
        if not frame.words and not redirect and not frame.list_of_words:
            text = self.text[begin:at]
            if text in _KEYWORDS:
                return
            frame.cases += (text == "case") - (text == "esac" and frame.cases > 0)
        frame.words.append(Word(begin, at, redirect))

    def _end_command(self, frame: _Frame, at: int, *, piped: bool = False) -> None:
        self._end_word(frame, at)
        frame.redirect = False
        if frame.list_of_words:
            frame.words.clear()
        elif frame.words:
            self.found.commands.append(Command(frame.words, piped, self.depth))
            frame.words = []

    def _redirect(self, frame: _Frame, token: re.Match[str], at: int) -> int:
        if frame.begin >= 0 and not self.text[frame.begin : at].isdecimal():
            self._end_word(frame, at)
        frame.begin = -1  # `2` of `2>` is part of the operator
        if token[0] in ("<<", "<<-"):
            word = _DELIMITER.match(self.text, token.end(), self.end)
            if word is not None:
                name = re.sub(r"['\"\\]", "", word[1])
                self.documents.append((name, token[0] == "<<-", name != word[1]))
                return word.end()
        frame.redirect = True
        return token.end()

    # Here-documents.

    def _documents(self, at: int) -> int:
        waiting, self.documents = self.documents, []
        for name, tabs, literal in waiting:
            begin = at
            while at < self.end:
                over = self.text.find("\n", at, self.end)
                over = self.end if over < 0 else over
                line = self.text[at:over]
                if (line.lstrip("\t") if tabs else line).rstrip("\r") == name:
                    break
                at = min(over + 1, self.end)
            self.found.documents.append((begin, at))
            if literal:
                self.found.quiet.append((begin, at))
            else:
                self._expansions(begin, at)
            over = self.text.find("\n", at, self.end)
            at = self.end if over < 0 else over + 1
        return at

    def _expansions(self, at: int, end: int) -> None:
        outer, self.end = self.end, end
        while at < end:
            part = _QUOTED.match(self.text, at, end)
            if part is None:
                break
            at = part.end()
            if part[0] == "$":
                at = self.dollar(part.start(), "document")
            elif part[0] == "`":
                at = self._backticks(part.start())
        self.end = outer

    # Expansions.

    def quoted(self, at: int) -> int:
        """Read double quotes that open before `at`."""
        while at < self.end:
            part = _QUOTED.match(self.text, at, self.end)
            if part is None:
                break
            at = part.end()
            if part[0] == '"':
                return at
            if part[0] == "$":
                at = self.dollar(part.start(), "quoted")
            elif part[0] == "`":
                at = self._backticks(part.start())
        return self.end

    def dollar(self, at: int, context: Context) -> int:
        """Read an expansion that begins with ``$``."""
        text = self.text
        if text.startswith("$((", at) and (after := self.arithmetic(at + 3)):
            return after
        if text.startswith("$(", at):
            return self._nested(at + 2, ")")
        if text.startswith("${", at):
            if self.depth >= _DEEPEST:
                return at + 2
            self.depth += 1
            after = self._braced(at, context)
            self.depth -= 1
            return after
        if text.startswith("$'", at) and context == "plain":
            over = re.compile(r"(?:[^'\\]|\\[\s\S])*'").match(text, at + 2, self.end)
            return over.end() if over else at + 2
        named = _NAMED.match(text, at, self.end)
        length = False
        if named is None and self.csh:
            named, length = _CSH.match(text, at, self.end), True
        if named is None:
            return at + 1
        self._variable(named.span(1), named.span(), context, length=length)
        return named.end()

    def _variable(
        self,
        name: tuple[int, int],
        whole: tuple[int, int],
        context: Context,
        rest: str = "",
        *,
        length: bool = False,
    ) -> None:
        word = self.text[name[0] : name[1]]
        self.found.variables.append(Variable(word, *name, *whole, context, rest, self.back, length))

    def _braced(self, at: int, context: Context) -> int:
        named = _BRACED.match(self.text, at, self.end)
        begin = at = named.end() if named else at + 2
        inner: Context = "quoted" if context in ("quoted", "document") else "plain"
        after = self.end
        while at < self.end:
            part = _INNER.match(self.text, at, self.end)
            if part is None:
                break
            at = part.end()
            if part[0] == "}":
                after = at
                break
            if part[0] == "$":
                at = self.dollar(part.start(), inner)
            elif part[0] == '"':
                at = self.quoted(part.end())
            elif part[0] == "`":
                at = self._backticks(part.start())
        if named:
            rest = self.text[begin : max(begin, after - 1)]
            whole = (named.start(), after)
            self._variable(named.span(2), whole, context, rest, length=bool(named[1]))
        return after

    def arithmetic(self, at: int) -> int:
        """Read arithmetic up to its ``))``; 0 if the text is not arithmetic."""
        if at > self.last_arithmetic or at in self.no_arithmetic or self.depth >= _DEEPEST:
            return 0
        found = self.found
        lists = (found.commands, found.variables, found.comments, found.quiet, found.documents)
        counts = [len(each) for each in lists]
        waiting = list(self.documents)
        self.depth += 1
        after = self._arithmetic(at)
        self.depth -= 1
        if not after:  # its text is read again, as other syntax
            self.no_arithmetic.add(at)
            self.documents = waiting
            for each, count in zip(lists, counts, strict=True):
                del each[count:]
        return after

    def _arithmetic(self, at: int) -> int:
        depth = 0
        while at < self.end:
            part = _ARITHMETIC.match(self.text, at, self.end)
            if part is None:
                break
            at = part.end()
            if part[0] == "(":
                depth += 1
            elif part[0] == ")":
                if depth == 0:
                    return at + 1 if self.text.startswith(")", at) else 0
                depth -= 1
            elif part[0] == "$":
                at = self.dollar(part.start(), "arithmetic")
            elif part[0] == "`":
                at = self._backticks(part.start())
            elif part[0][0].isalpha() or part[0][0] == "_":
                self._variable(part.span(), part.span(), "arithmetic")
        return 0


def read_shell(
    text: str, *, csh: bool = False, end: int | None = None, places: Sequence[int] = ()
) -> ShellText:
    """Find the commands, variables and other spans in the text of a shell script.

    Args:
        csh: Whether csh or tcsh reads the script.
        end: Position at which to stop; None: the end of the text.
        places: Positions of interest, in order. Simple lines before each of them may be skipped,
            and all text after the command with the last one.
    """
    over = len(text) if end is None else end
    found = _Scanner(text, 0, over, csh=csh, places=places).found
    for spans in (found.comments, found.quiet, found.documents):
        spans.sort()
    return found


def read_fragment(text: str, start: int, end: int) -> ShellText:
    """Read a part of a text as commands; positions are those in the whole text."""
    return _Scanner(text, start, end, csh=False).found


def within(spans: list[tuple[int, int]], start: int, end: int) -> bool:
    """Whether a range is inside one of the spans, which are in order and do not overlap."""
    at = bisect.bisect_right(spans, (start, sys.maxsize)) - 1
    return at >= 0 and end <= spans[at][1]


def words_of(command: Command) -> Iterator[Word]:
    """Yield the words of a command without its redirections."""
    return (word for word in command.words if not word.redirect)
