"""Text → syntax trees. The grammar is Jinja's own parser; fractale reads only the tokens.

fractale's own tokens have three advantages:

- Every node has its position. Jinja stores the line of a token, and here this is the offset in the
  text instead.
- `{%` and `{#` stay plain text, since batch scripts contain code such as ``${#list[@]}``.
- Keywords may be written in any case, as in fractale 0.1.0.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Final

from jinja2 import nodes
from jinja2.environment import Environment
from jinja2.exceptions import TemplateSyntaxError
from jinja2.lexer import Token, TokenStream
from jinja2.parser import Parser

from fractale.plan.expressions.functions import FILTERS, FUNCTIONS, METHOD_NAMES
from fractale.plan.expressions.operators import TESTS
from fractale.plan.expressions.tokens import NotInLanguage, SyntaxFault, read_tokens
from fractale.text import listing, nearest

MOST_DEPTH: Final = 100
"""The maximum depth of an expression's tree."""

REMEMBERED_TEXT = 2048
_STATEMENT = re.compile(
    r"\{%[-+]?\s*(?:if|elif|else|endif|for|endfor|set|macro|include|import|from|extends|block"
    r"|raw|call|filter|with|do)\b[^\n]{0,200}?%\}"
)
_MEANT_FUNCTIONS: Final = {
    **dict.fromkeys(("match", "regex", "regex_match", "regex_search", "search"), "matches"),
    **dict.fromkeys(("containing", "containedin"), "contains"),
    **dict.fromkeys(("startingwith", "startswith"), "starts_with"),
    **dict.fromkeys(("endingwith", "endswith"), "ends_with"),
}
"""Tests and filters of other programs → the functions that do it here."""

_CALLS: Final = {
    "matches": "`matches(TEXT, PATTERN)`, which compares the whole text",
    "contains": "`contains(TEXT, PART)`",
    "starts_with": "`starts_with(TEXT, START)`",
    "ends_with": "`ends_with(TEXT, END)`",
    "len": "`len(VALUE)`",
    "range": "`range(START, END)`",
    "dict": "`dict(NAME=VALUE)`",
}

_ALLOWED: Final = (
    nodes.Expr,
    nodes.Pair,
    nodes.Operand,
    nodes.Keyword,
)


@dataclass(frozen=True, slots=True)
class Tree:
    """One expression.

    Args:
        node: Jinja's tree, whose ``lineno`` are offsets in the text; None if it has none.
        faults: Its errors. It can be evaluated only if there are none.
        text: The text that the offsets refer to.
    """

    node: nodes.Expr | None
    faults: tuple[SyntaxFault, ...]
    text: str

    @property
    def is_path(self) -> bool:
        """Whether the expression only looks up a value."""
        node = self.node
        while isinstance(node, (nodes.Getattr, nodes.Getitem)):
            node = node.node
        return isinstance(node, nodes.Name)


Part = str | Tree
"""A part of a template: plain text, or an expression."""


def parse_expression(source: str) -> Tree:
    """The tree of a bare expression."""
    return _cached_expression(source) if len(source) <= REMEMBERED_TEXT else _expression(source)


def parse_template(source: str) -> tuple[Part, ...]:
    """The parts of a text, in order. A trailing ``-`` of a brace strips the space beside it."""
    return _cached_template(source) if len(source) <= REMEMBERED_TEXT else _template(source)


def whole_expression(parts: tuple[Part, ...]) -> Tree | None:
    """The expression of a template that has nothing else but white space."""
    trees = [part for part in parts if isinstance(part, Tree)]
    rest = "".join(part for part in parts if isinstance(part, str))
    return trees[0] if len(trees) == 1 and not rest.strip() else None


def statements(text: str) -> list[SyntaxFault]:
    """The places in plain text that look like Jinja statements."""
    message = (
        "statements are not part of the plan language: write `{{ a if condition else b }}`, "
        "or `when` and `foreach` of a step"
    )
    return [
        SyntaxFault("template-statement", message, found.start(), len(found.group()))
        for found in _STATEMENT.finditer(text)
    ]


def _expression(source: str) -> Tree:
    try:
        tokens, _ = read_tokens(source, 0, inside=False)
        return _tree(source, tokens)
    except NotInLanguage as stop:
        return Tree(None, (stop.fault,), source)


def _template(source: str) -> tuple[Part, ...]:
    return tuple(_parts(source))


_cached_expression = lru_cache(maxsize=1024)(_expression)
_cached_template = lru_cache(maxsize=1024)(_template)


def _parts(source: str) -> Iterator[Part]:
    position, strip = 0, False
    while (opening := source.find("{{", position)) >= 0:
        start = opening + 2
        minus = source.startswith("-", start)
        yield _plain(source[position:opening], start=strip, end=minus)
        try:
            tokens, position = read_tokens(source, start + minus, inside=True, opening=opening)
            strip = source[position - 3 : position - 2] == "-"
            yield _tree(source, tokens, opening)
        except NotInLanguage as stop:
            yield Tree(None, (stop.fault,), source)
            closing = source.find("}}", start)
            position, strip = (closing + 2, False) if closing >= 0 else (len(source), False)
    yield _plain(source[position:], start=strip, end=False)


def _plain(text: str, *, start: bool, end: bool) -> str:
    text = text.lstrip() if start else text
    return text.rstrip() if end else text


def _tree(source: str, tokens: list[Token], opening: int = 0) -> Tree:
    if not tokens:
        raise NotInLanguage("the expression is missing", opening, 2)
    try:
        parser = Parser(_environment(), "", state="variable")
        parser.stream = TokenStream(tokens, None, None)
        node = parser.parse_expression()
        if not parser.stream.eos:
            rest = parser.stream.current
            raise NotInLanguage(f"unexpected `{rest.value}` after the expression", rest.lineno)
    except TemplateSyntaxError as error:
        raise NotInLanguage(_plain_words(error.message or "", tokens), error.lineno) from None
    except RecursionError:
        raise NotInLanguage("the expression is nested too deeply", opening) from None
    faults = tuple(_check(node, source))
    return Tree(None if faults else node, faults, source)


def _plain_words(message: str, tokens: list[Token]) -> str:
    """Jinja's message without its terms for things that plans do not have."""
    if "end of template" in message or "end of print" in message:
        return f"the expression ends too early, after `{tokens[-1].value}`"
    return message.rstrip(".").replace("'", "`")


@cache
def _environment() -> Environment:
    return Environment(autoescape=False)


# The limits of a tree


def _check(root: nodes.Expr, source: str) -> Iterator[SyntaxFault]:
    stack: list[tuple[nodes.Node, int]] = [(root, 1)]
    while stack:
        node, depth = stack.pop()
        if depth > MOST_DEPTH:
            yield SyntaxFault("template-syntax", "the expression is nested too deeply", root.lineno)
            return
        yield from _check_node(node, source)
        for child in node.iter_child_nodes():
            # A chain of `or`s is a list, although its tree is nested.
            chain = isinstance(node, (nodes.And, nodes.Or)) and type(child) is type(node)
            stack.append((child, depth if chain else depth + 1))


def _check_node(node: nodes.Node, source: str) -> Iterator[SyntaxFault]:
    if not isinstance(node, _ALLOWED):
        yield SyntaxFault("template-syntax", "this is not an expression", node.lineno)
    elif isinstance(node, (nodes.Filter, nodes.Test, nodes.Call)):
        if node.dyn_args or node.dyn_kwargs:
            message = "arguments cannot be spread with `*`"
            yield SyntaxFault("template-syntax", message, node.lineno)
        yield from _check_name(node, source)


def _check_name(node: nodes.Filter | nodes.Test | nodes.Call, source: str) -> Iterator[SyntaxFault]:
    if isinstance(node, nodes.Filter):
        yield from _unknown("filter", node.name, FILTERS, node.lineno)
    elif isinstance(node, nodes.Test):
        at = source.find(node.name.partition(".")[0], node.lineno + 2)
        yield from _unknown("test", node.name, TESTS, at)
    elif isinstance(node.node, nodes.Name):
        yield from _unknown("function", node.node.name, FUNCTIONS, node.node.lineno)
    elif isinstance(node.node, nodes.Getattr):
        at = name_offset(source, node.node)
        yield from _unknown("method", node.node.attr, METHOD_NAMES, at)
    else:
        yield SyntaxFault("template-syntax", "only functions can be called", node.lineno)


def _unknown(what: str, name: str, names: Collection[str], offset: int) -> Iterator[SyntaxFault]:
    if function := _MEANT_FUNCTIONS.get(name, name if name in FUNCTIONS else None):
        if name not in names:
            yield SyntaxFault(
                f"unknown-{what}",
                f"unknown {what} `{name}`; write it as a function: {_CALLS[function]}",
                offset,
                len(name),
            )
    elif name not in names:
        near = nearest(name, sorted(names))
        rest = "" if near else f"; the {what}s are {listing(sorted(names))}"
        yield SyntaxFault(
            f"unknown-{what}", f"unknown {what} `{name}`{rest}", offset, len(name), near
        )


def name_offset(source: str, node: nodes.Getattr) -> int:
    """The offset of an attribute's name, after the dot and any space."""
    at = node.lineno + 1
    while source[at : at + 1].isspace():
        at += 1
    return at
