"""The question of an ask step: its choices or its form, and its default."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

from fractale.errors import Problem
from fractale.plan.fields import Fields, join
from fractale.plan.forms import JSON_SCHEMA, Form, Inline, ref
from fractale.plan.node import clip
from fractale.plan.rules import EXPRESSION
from fractale.plan.values import (
    Expression,
    Template,
    Value,
    has_template,
    plain_value,
    template,
    value_of,
)
from fractale.secret_names import is_secret
from fractale.text import listing, nearest

if TYPE_CHECKING:
    from fractale.plan.model import Step
    from fractale.plan.node import Node
    from fractale.schemas import Misfit

ASK_OUTPUTS: Final = ("answer", "text")
"""The outputs of every ask step. A form's fields are outputs, too."""

NOT_AS_FIELD: Final = frozenset(
    {*ASK_OUTPUTS, "content", "outputs", "attempts", "inputs", "steps", "previous", "run", "values"}
    | {"item", "index", "error", "errors", "success", "warnings", "not_translated", "files"}
    | {"returncode", "return_code", "exit_code", "exitcode", "retval", "return_value"}
)
"""Names that a form's field cannot have: other outputs, names of rules, and evidence of failure."""

FIELD_TYPES: Final = ("string", "number", "integer", "boolean", "array")
"""The types of a form's fields. An array is a choice of several values, or a list of texts."""


@dataclass(frozen=True, slots=True)
class AskChoice:
    """One of the answers to choose from.

    Args:
        word: The answer.
        question: What is asked next if it is chosen; None: nothing.
    """

    word: str
    question: str | Template | None = None


Choices: TypeAlias = "tuple[AskChoice, ...] | Expression"


def _question(fields: Fields, key: str) -> str | Template | None:
    node = fields.value(key)
    text = fields.reader.text(node, join(fields.path, key), f"`{key}`")
    return template(node) if text is not None else None


# The choices


def _choices(fields: Fields, key: str) -> Choices | None:
    node = fields.value(key)
    if isinstance(node.value, str):
        return EXPRESSION.read(fields, key) if EXPRESSION.read else None
    if not isinstance(node.value, list):
        fields.wrong(key, "a list of words, or an expression that gives one")
        return None
    if not node.value:
        fields.fail(key, "bad-value", "`choices` needs at least one choice")
    found: dict[str, AskChoice] = {}
    for where, item in fields.items(key):
        choice = _choice(fields, item, where)
        if choice is None:
            continue
        if choice.word in found:
            message = f"`{clip(choice.word)}` is among the choices already"
            fields.reader.fail("duplicate-choice", message, item, where)
        found[choice.word] = choice
    return tuple(found.values())


def _choice(fields: Fields, node: Node, path: str) -> AskChoice | None:
    """A word, or a mapping of one word to the question that follows it."""
    reader = fields.reader
    if not isinstance(node.value, dict):
        word = reader.text(node, path, "a choice")
        return _plain_choice(fields, node, path, word) if word is not None else None
    if len(node.value) != 1:
        message = "a choice with a text is written `{word: question}`, with one word"
        reader.fail("wrong-type", message, node, path)
        return None
    ((word, asked),) = node.value.items()
    found = _plain_choice(fields, node.keys[word], path, word)
    text = reader.text(asked, join(path, word), "the question after a choice")
    if found is None or text is None:
        return None
    return AskChoice(found.word, template(asked))


def _plain_choice(fields: Fields, node: Node, path: str, word: str) -> AskChoice | None:
    if "{{" not in word and "\n" not in word.strip() and word.strip():
        return AskChoice(word.strip())
    message = (
        "a choice is a plain word; for choices that only the run knows, write an expression that "
        "gives the whole list"
    )
    fields.reader.fail("bad-value", message, node, path)
    return None


def _choices_data(choices: Choices) -> Any:
    if isinstance(choices, Expression):
        return choices.source
    return Inline(
        each.word if each.question is None else {each.word: plain_value(each.question)}
        for each in choices
    )


# The form


def _form(fields: Fields, key: str) -> dict[str, Any] | None:
    """A JSON Schema of an object whose fields are plain values."""
    schema = JSON_SCHEMA.read(fields, key) if JSON_SCHEMA.read else None
    if schema is None:
        return None
    properties: Any = schema.get("properties")
    if schema.get("type") != "object" or not isinstance(properties, dict) or not properties:
        message = "`form` is the JSON Schema of an object: `{type: object, properties: {…}}`"
        fields.fail(key, "bad-form", message)
        return None
    node, path = fields.value(key).value, join(fields.path, key)
    inner = cast("dict[str, Node]", node)["properties"]
    for name, at in cast("dict[str, Node]", inner.value).items():
        field = cast("dict[str, Any]", properties)[name]
        if problem := _field_problem(name, field):
            fields.reader.fail("bad-form", problem, inner.keys[name], f"{path}.properties.{name}")
        elif problem := _default_problem(name, field):
            fields.reader.fail("bad-default", problem, at, f"{path}.properties.{name}.default")
    names: Any = schema.get("required")
    for name in cast("list[Any]", names) if isinstance(names, list) else ():
        if not isinstance(name, str) or name not in properties:
            message = f"`required` names `{clip(str(name))}`, which is not in `properties`"
            near = (str(name), list(cast("dict[str, Any]", properties)))
            at = cast("dict[str, Node]", node)["required"]
            fields.reader.fail("bad-form", message, at, f"{path}.required", near=near)
    return schema


def _field_problem(name: str, field: Any) -> str | None:
    """Why a terminal or a client of the Model Context Protocol cannot ask for a field."""
    if name in NOT_AS_FIELD:
        return f"a form's field cannot be named `{name}`, which has another meaning in rules"
    if not isinstance(field, dict):
        return f"the field `{clip(name)}` needs a schema, such as `{{type: string}}`"
    schema = cast("dict[str, Any]", field)
    if schema.get("writeOnly") is True or schema.get("format") == "password" or is_secret(name):
        return (
            f"the field `{clip(name)}` asks for a secret, and answers are stored; declare an input "
            "with `secret: true`"
        )
    if schema.get("type") == "array":
        items = cast("dict[str, Any]", schema["items"] if _has_items(schema) else {})
        plain = _is_choice(items) or items.get("type") in FIELD_TYPES[:-1]
        return None if plain else f"the items of the field `{clip(name)}` must be plain values"
    if schema.get("type") in FIELD_TYPES or _is_choice(cast("Any", schema)):
        return None
    kinds = listing(FIELD_TYPES)
    return f"a form is flat: the type of its field `{clip(name)}` must be one of {kinds}"


def _has_items(schema: Mapping[str, Any]) -> bool:
    return isinstance(schema.get("items"), dict)


def _is_choice(schema: Mapping[str, Any]) -> bool:
    if isinstance(schema.get("enum"), list):
        return True
    options: Any = schema.get("oneOf") or schema.get("anyOf")
    listed = cast("list[Any]", options) if isinstance(options, list) else []
    return bool(listed) and all(isinstance(each, dict) and "const" in each for each in listed)


def _default_problem(name: str, field: Mapping[str, Any]) -> str | None:
    if "default" not in field:
        return None
    faults = _misfits(field, field["default"])
    return f"the default of `{clip(name)}` does not fit: {faults[0].message}" if faults else None


def _misfits(schema: Mapping[str, Any], value: Any) -> list[Misfit]:
    """Where a value does not fit; nowhere if the schema has a problem itself."""
    from fractale.schemas import UnusableSchema, misfits  # the import of jsonschema takes long

    try:
        return misfits(schema, value, trusted=True)
    except UnusableSchema:
        return []


def field_names(form: Mapping[str, Any]) -> list[str]:
    """The names of a form's fields."""
    return list(cast("Mapping[str, Any]", form["properties"]))


# The default


def _default(fields: Fields, key: str) -> Value:
    return value_of(fields.value(key))


def check_question(fields: Fields, given: Mapping[str, Any]) -> None:
    """Keep the problems of a question that concern more than one of its keys.

    Args:
        given: The fields of the step, as far as they could be read.
    """
    if "choices" in fields and "form" in fields:
        message = "a question has `choices` or a `form`, not both"
        fields.fail("form", "contradiction", message)
    for problem, near in _wrong_default(given):
        fields.fail("default", "bad-default", problem, near)


def _wrong_default(
    given: Mapping[str, Any],
) -> Iterator[tuple[str, tuple[str, Collection[str]] | None]]:
    """Why a default does not answer its question, with a wrong word and the right words."""
    default: Value = given.get("default")
    choices: Choices | None = given.get("choices")
    form: Mapping[str, Any] | None = given.get("form")
    if default is None or has_template(default):
        return
    if form is not None:
        yield from ((each, None) for each in _unfit(form, default))
        return
    word = default
    if isinstance(default, dict) and "answer" in default and set(default) <= {"answer", "text"}:
        word = default["answer"]
    if not isinstance(word, str):
        yield "the default of this question must be text", None
    elif isinstance(choices, tuple):
        words = {choice.word: choice for choice in choices}
        if word not in words:
            yield f"the default must be one of {listing(words)}", (word, list(words))
        elif isinstance(default, dict) and words[word].question is None and default.get("text"):
            yield f"the choice `{word}` has no text", None
    elif word is not default and choices is None:
        yield "the default of this question must be text", None


def _unfit(form: Mapping[str, Any], default: Value) -> Iterator[str]:
    fields: list[tuple[str, Any]] = list(form["properties"].items())
    prefilled: dict[str, Any] = {
        name: field["default"]
        for name, field in fields
        if isinstance(field, dict) and "default" in field
    }
    if not isinstance(default, dict):
        yield "the default of a form is a mapping of its fields"
        return
    for fault in _misfits(form, {**prefilled, **default})[:1]:
        yield f"the default does not fit the form: {fault}"


QUESTION: Final = Form(_question, {"type": "string", "pattern": r"\S"}, plain_value)
"""Text that is not empty and may be a template."""

CHOICES: Final = Form(
    _choices,
    {
        "anyOf": [
            ref("expression"),
            {
                "type": "array",
                "minItems": 1,
                "items": {
                    "anyOf": [
                        {"type": "string", "pattern": r"\S"},
                        {
                            "type": "object",
                            "minProperties": 1,
                            "maxProperties": 1,
                            "additionalProperties": {"type": "string", "pattern": r"\S"},
                        },
                    ]
                },
            },
        ]
    },
    _choices_data,
)
"""Words, some with a question that follows; or an expression that gives words."""

FORM: Final = Form(_form, {"type": "object", "required": ["properties"]}, dict)
"""JSON Schema of an object with plain values."""

DEFAULT: Final = Form(_default, {}, plain_value)
"""Any JSON value that may contain templates."""


def question_values(step: Step) -> dict[str, Value]:
    """The parts of the question by their keys. All but the form may contain templates."""
    found: dict[str, Value] = {"ask": step.value}
    if isinstance(step.choices, tuple):
        found["choices"] = [
            each.word if each.question is None else {each.word: each.question}
            for each in step.choices
        ]
    if step.form is not None:
        found["form"] = dict(step.form)
    if step.default is not None:
        found["default"] = step.default
    return found


# Rules that compare the answer


def unknown_answers(step: Step, path: str) -> Iterator[Problem]:
    """Warnings about rules that compare the answer with a word that is not a choice."""
    if not isinstance(step.choices, tuple):
        return
    from fractale.plan.expressions import compared_texts

    words = [choice.word for choice in step.choices]
    for rule in step.rules:
        for text in compared_texts(rule.expression, "answer"):
            if text not in words:
                yield Problem(
                    "unknown-choice",
                    f"`{clip(text)}` is not among the choices {listing(words)}",
                    rule.expression.position,
                    f"{path}.rules.{rule.event}",
                    suggestion=nearest(text, words),
                    severity="warning",
                )
