"""Evaluates the tree of an expression over plain data.

An expression cannot reach anything of Python. A dot looks for a key, a call finds one of the listed
functions and methods, and no attribute of an object is ever read. That, and the budget, is the
sandbox.

Jinja can evaluate such expressions, and has a sandbox, but its sandbox is too weak for a stranger's
plan. Nine expressions that need much time or memory were run in its ImmutableSandboxedEnvironment,
with `*` and `**` intercepted, under a limit of 3 GB:

- It stopped one.
- Six completed in 2 to 4 s and made texts or lists of up to 1 GB (center, ljust, indent, join,
  batch, %1000000000d).
- One ran out of memory (replace).
- One was killed after 5 s (a loop in a loop).

Here, the budget pays for each size before it is allocated, and `tests/plan/test_sandbox.py` limits
these expressions to 50 MB. Jinja's evaluation also has no column numbers, and no rules in which an
undefined name is false.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Final

from jinja2 import nodes

from fractale.plan.expressions.functions import FILTERS, FUNCTIONS, METHOD_NAMES, method_of
from fractale.plan.expressions.operators import BINARY, COMPARISONS, TESTS
from fractale.plan.expressions.syntax import name_offset
from fractale.plan.expressions.values import (
    ITEM,
    Fault,
    Fuel,
    Missing,
    finite,
    is_list,
    is_mapping,
    kind,
    to_text,
)
from fractale.text import did_you_mean, listing

OnMissing = Callable[[Missing], None]

# Errors of Python's own operations on values that do not fit.
_PYTHON = (TypeError, ValueError, ArithmeticError, LookupError, RecursionError)


DEFAULT_HINT: Final = "write `| default(…)` where it may be missing"


class Evaluation:
    """One evaluation of one expression.

    Args:
        scope: The names that are defined, with plain JSON.
        fuel: The budget of the evaluation.
        text: The text that offsets refer to.
        on_missing: Receives every name that is not defined. Such a name is then false, and every
            comparison with it is false. None: a name that is not defined is a fault.
    """

    __slots__ = ("fuel", "on_missing", "scope", "text")

    def __init__(
        self,
        scope: Mapping[str, Any],
        fuel: Fuel,
        text: str,
        on_missing: OnMissing | None = None,
    ) -> None:
        self.scope = scope
        self.fuel = fuel
        self.text = text
        self.on_missing = on_missing

    def visit(self, node: nodes.Node) -> Any:
        """The value of a node.

        Raises:
            Fault: The node has no value. The fault has its position.
        """
        self.fuel.spend(1)
        try:
            return self.VISITS[type(node)](self, node)
        except Fault as fault:
            if fault.offset < 0:
                fault.offset = _place(node)
            raise
        except _PYTHON as error:
            message = "too deeply nested" if isinstance(error, RecursionError) else str(error)
            raise Fault(message, offset=_place(node)) from error

    def truth(self, node: nodes.Node) -> bool:
        """Whether a node counts as true."""
        try:
            return bool(self.visit(node))
        except Missing as missing:
            self._accept(missing)
            return False

    def filter(self, name: str, value: Any, *args: Any, **kwargs: Any) -> Any:
        """Apply a filter by its name."""
        if name not in FILTERS:
            raise Fault(f"unknown filter `{name}`", did_you_mean(name, FILTERS) or None)
        return _call(name, FILTERS[name], self, value, *args, **kwargs)

    def _accept(self, missing: Missing) -> None:
        if self.on_missing is None:
            raise missing
        self.on_missing(missing)

    # Names and parts

    def _name(self, node: nodes.Name) -> Any:
        if node.name in self.scope:
            return self.scope[node.name]
        if node.name == "previous":
            message = "`previous` is not defined: the plan begins here, so no step led here"
            raise Missing("previous", message, DEFAULT_HINT, node.lineno)
        return self._missing(node.name, node.name, self.scope, "", node.lineno)

    def _getattr(self, node: nodes.Getattr) -> Any:
        return self._part(self.visit(node.node), node.attr, node)

    def _getitem(self, node: nodes.Getitem) -> Any:
        value = self.visit(node.node)
        if isinstance(node.arg, nodes.Slice):
            return self._slice(value, node.arg)
        return self._part(value, self.visit(node.arg), node)

    def _part(self, value: Any, key: Any, node: nodes.Getattr | nodes.Getitem) -> Any:
        if is_mapping(value):
            if key in value:
                return value[key]
        elif _has_index(value, key):
            return value[key]
        before = _dotted(node.node)
        offset = name_offset(self.text, node) if isinstance(node, nodes.Getattr) else -1
        return self._missing(_dotted(node), key, value, before, offset)

    def _missing(self, name: str, key: Any, value: Any, before: str, offset: int) -> Any:
        """Raise the fault that a name is not defined, with the names that are."""
        hint = None
        where = f"`{before}`"
        if is_mapping(value):
            names = [str(known) for known in value]
            shown = listing(names) or "no names"
            what = f"{where} has {shown}" if before else f"there are {shown}"
            hint = did_you_mean(str(key), names) or None
        elif is_list(value):
            what = f"{where} is a list of {len(value)}"
        else:
            what = f"{where} is {kind(value)}"
        if key in METHOD_NAMES and hint is None:
            hint = f"call it: `.{key}()`"
        hint = hint or DEFAULT_HINT
        raise Missing(name, f"`{name}` is not defined: {what}", hint, offset)

    def _slice(self, value: Any, node: nodes.Slice) -> Any:
        if not (is_list(value) or isinstance(value, str)):
            raise Fault(f"cannot read a part of {kind(value)}")
        bounds = (node.start, node.stop, node.step)
        part = slice(*(self.visit(bound) if bound else None for bound in bounds))
        count = len(range(*part.indices(len(value))))
        self.fuel.spend(count if isinstance(value, str) else ITEM * count)
        return value[part] if isinstance(value, str) else list(value)[part]

    # Literals

    def _const(self, node: nodes.Const) -> Any:
        return node.value

    def _list(self, node: nodes.List | nodes.Tuple) -> list[Any]:
        self.fuel.spend(ITEM * len(node.items))
        found: list[Any] = []
        for item in node.items:
            try:
                found.append(self.visit(item))
            except Missing as missing:
                self._accept(missing)
        return found

    def _dict(self, node: nodes.Dict) -> dict[str, Any]:
        self.fuel.spend(2 * ITEM * len(node.items))
        found: dict[str, Any] = {}
        for pair in node.items:
            key = self.visit(pair.key)
            if not isinstance(key, str):
                hint = "put quotes around it"
                raise Fault(f"a key must be text, not {kind(key)}", hint, pair.lineno)
            found[key] = self.visit(pair.value)
        return found

    # Operators

    def _binary(self, node: nodes.BinExpr) -> Any:
        left, right = self.visit(node.left), self.visit(node.right)
        return BINARY[node.operator](self.fuel, left, right)

    def _unary(self, node: nodes.UnaryExpr) -> Any:
        value = self.visit(node.node)
        if not isinstance(value, (int, float)):
            raise Fault(f"`{node.operator}` expects a number, not {kind(value)}")
        return finite(-value if node.operator == "-" else +value)

    def _not(self, node: nodes.Not) -> bool:
        inner = node.node
        # `x is not none` is one comparison. Jinja gives both of its nodes the same position.
        if isinstance(inner, nodes.Test) and inner.lineno == node.lineno:
            return self._test(inner, wanted=False)
        return not self.truth(inner)

    def _and_or(self, node: nodes.And | nodes.Or) -> Any:
        *first, last = _chain(node)
        wanted = isinstance(node, nodes.Or)
        for operand in first:
            try:
                value = self.visit(operand)
            except Missing as missing:
                self._accept(missing)
                value = False
            if bool(value) is wanted:
                return value
        return self.visit(last)

    def _condition(self, node: nodes.CondExpr) -> Any:
        if self.truth(node.test):
            return self.visit(node.expr1)
        if node.expr2 is None:
            message = "the condition is false, and no `else` is given"
            raise Missing("else", message, "write `a if condition else b`")
        return self.visit(node.expr2)

    def _compare(self, node: nodes.Compare) -> bool:
        try:
            return self._compared(node)
        except Missing as missing:
            self._accept(missing)
            return False

    def _compared(self, node: nodes.Compare) -> bool:
        left = self.visit(node.expr)
        for operand in node.ops:
            right = self.visit(operand.expr)
            if not self._holds(operand.op, left, right):
                return False
            left = right
        return True

    def _holds(self, name: str, left: Any, right: Any) -> bool:
        # In the rules of fractale 0.1.0, `in` was false for a value that cannot contain anything.
        if self.on_missing and name in ("in", "notin") and not _holds_others(right):
            return name == "notin"
        return COMPARISONS[name](self.fuel, left, right)

    def _concat(self, node: nodes.Concat) -> str:
        parts = [to_text(self.fuel, self.visit(part)) for part in node.nodes]
        self.fuel.spend(sum(map(len, parts)))
        return "".join(parts)

    # Calls

    def _filter(self, node: nodes.Filter) -> Any:
        assert node.node is not None  # noqa: S101 - only a filter block of Jinja has none
        if node.name in ("default", "d"):
            return self._default(node, node.node)
        value = self.visit(node.node)
        args, kwargs = self._arguments(node)
        return self.filter(node.name, value, *args, **kwargs)

    def _default(self, node: nodes.Filter, inner: nodes.Expr) -> Any:
        args, kwargs = self._arguments(node)
        try:
            return self.filter("default", self.visit(inner), *args, **kwargs)
        except Missing:
            return args[0] if args else kwargs.get("default_value", "")

    def _test(self, node: nodes.Test, *, wanted: bool = True) -> bool:
        try:
            value = self.visit(node.node)
            args, kwargs = self._arguments(node)
        except Missing as missing:
            if node.name in ("defined", "undefined"):
                return (node.name == "undefined") is wanted
            self._accept(missing)
            return False
        found = _call(node.name, TESTS[node.name], self.fuel, value, *args, **kwargs)
        return bool(found) is wanted

    def _callee(self, node: nodes.Call) -> Any:
        args, kwargs = self._arguments(node)
        callee = node.node
        if isinstance(callee, nodes.Name):
            return _call(callee.name, FUNCTIONS[callee.name], self.fuel, *args, **kwargs)
        assert isinstance(callee, nodes.Getattr)  # noqa: S101 - the syntax check saw to it
        value = self.visit(callee.node)
        method = method_of(value, callee.attr)
        return _call(callee.attr, method, self.fuel, value, *args, **kwargs)

    def _arguments(
        self, node: nodes.Filter | nodes.Test | nodes.Call
    ) -> tuple[list[Any], dict[str, Any]]:
        args = [self.visit(arg) for arg in node.args]
        return args, {str(pair.key): self.visit(pair.value) for pair in node.kwargs}

    VISITS: ClassVar[Mapping[type[nodes.Node], Callable[[Any, Any], Any]]] = {
        nodes.Name: _name,
        nodes.Getattr: _getattr,
        nodes.Getitem: _getitem,
        nodes.Const: _const,
        nodes.List: _list,
        nodes.Tuple: _list,
        nodes.Dict: _dict,
        nodes.Add: _binary,
        nodes.Sub: _binary,
        nodes.Mul: _binary,
        nodes.Div: _binary,
        nodes.FloorDiv: _binary,
        nodes.Mod: _binary,
        nodes.Pow: _binary,
        nodes.Neg: _unary,
        nodes.Pos: _unary,
        nodes.Not: _not,
        nodes.And: _and_or,
        nodes.Or: _and_or,
        nodes.CondExpr: _condition,
        nodes.Compare: _compare,
        nodes.Concat: _concat,
        nodes.Filter: _filter,
        nodes.Test: _test,
        nodes.Call: _callee,
    }


def _call(name: str, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    try:
        return function(*args, **kwargs)
    except TypeError as error:
        raise Fault(f"`{name}`: {_unfit(function, args, kwargs) or error}") from error


def _unfit(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> str | None:
    """The error in a call's arguments, if their number or names are wrong."""
    try:
        inspect.signature(function).bind(*args, **kwargs)
    except TypeError as error:
        return str(error)
    return None


def _place(node: nodes.Node) -> int:
    """The offset of a node's start. Jinja's offset of a comparison is that of its end."""
    while isinstance(node, nodes.Compare):
        node = node.expr
    return node.lineno


def _has_index(value: Any, key: Any) -> bool:
    if not isinstance(key, int) or not (is_list(value) or isinstance(value, str)):
        return False
    return -len(value) <= key < len(value)


def _holds_others(value: Any) -> bool:
    return is_list(value) or is_mapping(value) or isinstance(value, str)


def _chain(node: nodes.And | nodes.Or) -> list[nodes.Expr]:
    """The operands of a chain of `and`s or of `or`s, in order."""
    found: list[nodes.Expr] = []
    left: nodes.Expr = node
    while type(left) is type(node):
        assert isinstance(left, nodes.BinExpr)  # noqa: S101 - of the type of the node
        found.append(left.right)
        left = left.left
    return [left, *reversed(found)]


def _dotted(node: nodes.Node) -> str:
    """An expression as a dotted name, up to the part where it stops being one."""
    if isinstance(node, nodes.Name):
        return node.name
    if isinstance(node, nodes.Getattr):
        return f"{_dotted(node.node)}.{node.attr}"
    if isinstance(node, nodes.Getitem):
        key = node.arg.value if isinstance(node.arg, nodes.Const) else "…"
        return f"{_dotted(node.node)}[{key!r}]" if key != "…" else f"{_dotted(node.node)}[…]"
    return "(…)"
