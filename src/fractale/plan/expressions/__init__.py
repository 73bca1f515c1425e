"""Templates and rules: Jinja's expressions over plain JSON, in a sandbox.

Only ``{{ … }}`` is special in a template. A value that is one whole ``{{ expression }}`` keeps the
expression's type. Inside other text, texts and numbers are inserted as they are. Lists, mappings,
``true``, ``false`` and ``null`` are inserted as compact JSON.

Values are JSON, which makes some differences from Jinja:

- A dot looks for keys only: ``outputs.items`` is the key and ``outputs.items()`` the method.
- Filters return lists, not generators.
- The keys of a mapping are text.
- ``tojson`` makes plain JSON, not JSON for HTML.

Modules:

- `tokens`, `syntax`: text → trees with positions, and syntax errors
- `evaluator`: evaluates a tree over data; explains why it does not use Jinja's evaluation
- `operators`: operators and tests; `functions`: functions, methods and filters
- `values`: JSON, the budget of an evaluation, faults
- `names`: the names that an expression refers to
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn, cast

from fractale.errors import Position, Problem, TemplateError
from fractale.plan.expressions.evaluator import Evaluation
from fractale.plan.expressions.names import Reference, compared_in, references_in, shifted
from fractale.plan.expressions.syntax import (
    Tree,
    parse_expression,
    parse_template,
    statements,
    whole_expression,
)
from fractale.plan.expressions.tokens import SyntaxFault
from fractale.plan.expressions.values import Fault, Fuel, Missing, to_text
from fractale.plan.model import Expression, Template, Value

__all__ = [
    "Reference",
    "compared_texts",
    "evaluate",
    "holds",
    "references",
    "render",
    "syntax_problems",
]

OnUndefined = Callable[[str], None]


def render(value: Value, scope: Mapping[str, Any]) -> Any:
    """A value with its templates filled in, at any depth.

    Args:
        value: JSON whose texts may be templates.
        scope: The names that templates may use, with plain JSON.

    Returns:
        JSON. It may share parts with the scope: do not change it in place.

    Raises:
        TemplateError: A template cannot be evaluated, or names something that is not defined.
    """
    return _render(value, scope, Fuel())


def evaluate(expression: Expression, scope: Mapping[str, Any]) -> Any:
    """The value of an expression.

    Raises:
        TemplateError: It cannot be evaluated, or names something that is not defined.
    """
    tree = parse_expression(expression.source)
    return _checked(tree, scope, Fuel(), expression)


def holds(
    expression: Expression, scope: Mapping[str, Any], on_undefined: OnUndefined | None = None
) -> bool:
    """Whether a rule or a condition is true.

    A name that is not defined is false, and so is every comparison with it, also `!=`.

    Args:
        expression: The rule.
        scope: The names that it may use.
        on_undefined: Receives every dotted name that is not defined, unless `default` or
            `is defined` expects that.

    Raises:
        TemplateError: The expression is not valid, or does not fit the data.
    """
    report = on_undefined or _ignore
    tree = parse_expression(expression.source)
    if tree.node is None:
        _raise_syntax(tree.faults[0], expression)
    evaluation = Evaluation(scope, Fuel(), tree.text, lambda missing: report(missing.name))
    try:
        return evaluation.truth(tree.node)
    except Fault as fault:
        _raise(fault, expression)


def references(value: Value | Expression) -> list[Reference]:
    """Every name that the templates of a value, or an expression, refer to.

    An expression that is not in the language refers to none.
    """
    return [
        reference
        for text in _texts(value)
        for tree in _trees(text)
        if tree.node is not None
        for reference in references_in(tree.node, tree.text, text.position)
    ]


def compared_texts(expression: Expression, name: str) -> list[str]:
    """The literal texts that an expression compares with a name, by `==`, `!=` or `in`."""
    tree = parse_expression(expression.source)
    return [] if tree.node is None else compared_in(tree.node, name)


def syntax_problems(value: Value | Expression, path: str) -> list[Problem]:
    """The syntax errors in a value's templates, or in an expression.

    Args:
        path: The value's path in the plan.

    Returns:
        Every problem. A problem in text without a template has no position.
    """
    return list(_problems(value, path))


def _ignore(_: str) -> None:
    pass


def _render(value: Value, scope: Mapping[str, Any], fuel: Fuel) -> Any:
    if isinstance(value, Template):
        return _render_text(value, scope, fuel)
    if isinstance(value, dict):
        return {key: _render(inner, scope, fuel) for key, inner in value.items()}
    if isinstance(value, list):
        return [_render(inner, scope, fuel) for inner in value]
    return value


def _render_text(template: Template, scope: Mapping[str, Any], fuel: Fuel) -> Any:
    parts = parse_template(template.source)
    if tree := whole_expression(parts):
        return _checked(tree, scope, fuel, template)
    texts: list[str] = []
    for part in parts:
        if isinstance(part, str):
            texts.append(part)
        else:
            value = _value(part, scope, fuel, template)
            texts.append(_as_text(value, fuel, template))
    return "".join(texts)


def _as_text(value: Any, fuel: Fuel, template: Template) -> str:
    try:
        text = to_text(fuel, value)
        fuel.spend(len(text))
    except Fault as fault:
        _raise(fault, template)
    return text


def _checked(
    tree: Tree, scope: Mapping[str, Any], fuel: Fuel, source: Template | Expression
) -> Any:
    """The value of an expression that is stored unchanged."""
    value = _value(tree, scope, fuel, source)
    if isinstance(value, (list, dict)) and not tree.is_path:
        # A value that was built, rather than only looked up, may be far larger as text than in
        # memory: a list may contain another list a thousand times.
        try:
            fuel.spend_on(value)
        except Fault as fault:
            _raise(fault, source)
    return cast("Any", value)


def _value(tree: Tree, scope: Mapping[str, Any], fuel: Fuel, source: Template | Expression) -> Any:
    if tree.node is None:
        _raise_syntax(tree.faults[0], source)
    try:
        return Evaluation(scope, fuel, tree.text).visit(tree.node)
    except Fault as fault:
        _raise(fault, source)


def _raise(fault: Fault, source: Template | Expression) -> NoReturn:
    position = shifted(source.position, source.source, max(0, fault.offset))
    hint = fault.hint
    if isinstance(fault, Missing) and hint is None:
        hint = "write `| default(…)` where it may be missing"
    raise TemplateError(fault.message, hint=hint, position=position) from fault


def _raise_syntax(fault: SyntaxFault, source: Template | Expression) -> NoReturn:
    hint = f"did you mean `{fault.suggestion}`?" if fault.suggestion else None
    position = shifted(source.position, source.source, fault.offset)
    raise TemplateError(fault.message, hint=hint, position=position)


def _texts(value: Value | Expression) -> Iterator[Template | Expression]:
    if isinstance(value, (Template, Expression)):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner)


def _trees(text: Template | Expression) -> list[Tree]:
    if isinstance(text, Expression):
        return [parse_expression(text.source)]
    return [part for part in parse_template(text.source) if isinstance(part, Tree)]


def _problems(value: Value | Expression, path: str) -> Iterator[Problem]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _problems(inner, f"{path}.{key}")
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _problems(inner, f"{path}[{index}]")
    elif isinstance(value, str):
        for fault in statements(value):
            yield _problem(fault, None, path)
    elif isinstance(value, (Template, Expression)):
        for fault in _faults(value):
            yield _problem(fault, shifted(value.position, value.source, fault.offset), path)


def _faults(text: Template | Expression) -> Iterator[SyntaxFault]:
    for tree in _trees(text):
        yield from tree.faults
    if isinstance(text, Template):
        yield from statements(_blanked(text.source))


def _blanked(source: str) -> str:
    """A template with blanks instead of its expressions, so that offsets stay the same."""
    parts = source.split("{{")
    blanked = [parts[0]]
    for part in parts[1:]:
        inside, close, rest = part.partition("}}")
        blanked.append(" " * (2 + len(inside) + len(close)) + rest)
    return "".join(blanked)


def _problem(fault: SyntaxFault, position: Position | None, path: str) -> Problem:
    return Problem(
        fault.code, fault.message, position, path, fault.length, suggestion=fault.suggestion
    )
