"""The tokens of expressions: text → tokens for Jinja's parser, each with its position.

A token's ``lineno`` is its offset in the text, so that Jinja's nodes and errors have the offset.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final

from jinja2.lexer import Token, operators

MOST_TEXT: Final = 64 * 1024
"""The longest expression, in characters."""

MOST_NESTING: Final = 32
"""The maximum nesting of brackets."""

MOST_TOKENS: Final = 10_000

_CLOSE = re.compile(r"-?\}\}")
_INDEX = re.compile(r"\d+", re.ASCII)
_STEP_NAME = re.compile(r"[A-Za-z]\w*(?:-+\w+)*", re.ASCII)
_LEADING_DOT = re.compile(r"\.\d+", re.ASCII)
_TOKEN = re.compile(
    r"""
    (?P<space>\s+)
  | (?P<float>(?a:\d[\d_]*\.\d[\d_]*(?:[eE][-+]?\d+)?|\d[\d_]*[eE][-+]?\d+|\d+\.(?![\w.])))
  | (?P<integer>(?a:0[xX][0-9a-fA-F]+|0[bB][01]+|0[oO][0-7]+|\d[\d_]*))
  | (?P<name>[^\W\d]\w*)
  | (?P<string>'[^'\\]*(?:\\.[^'\\]*)*'|"[^"\\]*(?:\\.[^"\\]*)*")
  | (?P<operator>//|\*\*|==|!=|>=|<=|[-+/*%~\[\](){}=<>.:|,;])
    """,
    re.VERBOSE | re.DOTALL,
)
_PAIRS: Final = {"(": ")", "[": "]", "{": "}"}
_KEYWORDS: Final = {word: word for word in ("and", "or", "not", "in", "true", "false", "none")} | {
    "null": "none"
}
_VALUE_ENDS: Final = ("name", "string", "integer", "float", "rparen", "rbracket", "rbrace")


@dataclass(frozen=True, slots=True)
class SyntaxFault:
    """A place where a text is not in the language.

    Args:
        offset: The first wrong character, from 0.
        length: The number of wrong characters.
        suggestion: The nearest valid word.
    """

    code: str
    message: str
    offset: int
    length: int = 1
    suggestion: str | None = None


class NotInLanguage(Exception):
    """Reading must stop. The fault has the reason and the place."""

    def __init__(self, message: str, offset: int, length: int = 1) -> None:
        super().__init__(message)
        self.fault = SyntaxFault("template-syntax", message, offset, length)


def read_tokens(
    source: str, start: int, *, inside: bool, opening: int = 0
) -> tuple[list[Token], int]:
    """The tokens of an expression, and the offset of its end.

    Args:
        inside: Whether the expression is in braces, and ends with them.
        opening: The offset of the opening braces.
    """
    tokens: list[Token] = []
    closers: list[str] = []
    position = start
    while position < len(source):
        if inside and not closers and (close := _CLOSE.match(source, position)):
            return tokens, close.end()
        position = _read_one(source, position, tokens, closers)
        if position - start > MOST_TEXT or len(tokens) > MOST_TOKENS:
            raise NotInLanguage("the expression is too long", opening)
    if inside:
        raise NotInLanguage("`{{` is not closed by `}}`; to write braces: {{ '{{' }}", opening, 2)
    return tokens, position


def _read_one(source: str, position: int, tokens: list[Token], closers: list[str]) -> int:
    found = _special(source, position, tokens)
    if found is None:
        match = _TOKEN.match(source, position)
        if match is None:
            raise NotInLanguage(_unreadable(source, position), position)
        found = str(match.lastgroup), match.end()
    group, end = found
    text = source[position:end]
    if group == "operator":
        _balance(text, position, closers)
        tokens.append(Token(position, operators[text], text))
    elif group != "space":
        after_dot = bool(tokens) and tokens[-1].type == "dot"
        value = _value(group, text, position, keep=after_dot)
        tokens.append(Token(position, group, value))
    return end


def _special(source: str, position: int, tokens: list[Token]) -> tuple[str, int] | None:
    """Tokens that depend on the tokens before them: indexes, names of steps, `.5`."""
    previous = tokens[-1].type if tokens else ""
    if previous == "dot" and (match := _INDEX.match(source, position)):
        return "integer", match.end()
    if _after_steps(tokens) and (match := _STEP_NAME.match(source, position)):
        return "name", match.end()
    if previous not in _VALUE_ENDS and (match := _LEADING_DOT.match(source, position)):
        return "float", match.end()
    return None


def _after_steps(tokens: list[Token]) -> bool:
    """Whether the name of a step follows, which may contain `-`."""
    if len(tokens) < 2 or tokens[-1].type != "dot" or not tokens[-2].test("name:steps"):
        return False
    return len(tokens) == 2 or tokens[-3].type != "dot"


def _balance(text: str, position: int, closers: list[str]) -> None:
    if text in _PAIRS:
        closers.append(_PAIRS[text])
        if len(closers) > MOST_NESTING:
            raise NotInLanguage(f"brackets nest more than {MOST_NESTING} levels deep", position)
    elif text in _PAIRS.values():
        if not closers:
            raise NotInLanguage(f"`{text}` closes nothing", position)
        if (expected := closers.pop()) != text:
            raise NotInLanguage(f"expected `{expected}` before `{text}`", position)


def _unreadable(source: str, position: int) -> str:
    character = source[position]
    if character in "'\"":
        return "this text is not closed by a quote"
    hint = {"&": "; write `and`", "!": "; write `not` or `!=`", "?": "; write `a if b else c`"}
    return f"unexpected character `{character}`{hint.get(character, '')}"


def _value(group: str, text: str, position: int, *, keep: bool) -> Any:
    """A token's value. With `keep`, a name after a dot is never a keyword."""
    if group == "name":
        return text if keep else _KEYWORDS.get(text.lower(), text)
    try:
        if group == "string":
            return _unescape(text[1:-1])
        if len(text) > 300:
            raise NotInLanguage("this number is too long", position, len(text))
        return float(text.replace("_", "")) if group == "float" else _integer(text)
    except (ValueError, OverflowError) as error:
        raise NotInLanguage(f"this {group} cannot be read: {error}", position, len(text)) from None


def _integer(text: str) -> int:
    plain = text.replace("_", "")
    return int(plain) if plain.isdigit() else int(plain, 0)


def _unescape(text: str) -> str:
    if "\\" not in text:
        return text
    plain = text.encode("ascii", "backslashreplace").decode("unicode-escape")
    plain.encode()  # raises for half a character, such as "\ud800"
    return plain
