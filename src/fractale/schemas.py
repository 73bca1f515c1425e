"""Values checked against JSON Schema, in bounded time: the one helper for all such checks.

No reference is fetched. A pattern of the user's own schema is matched with a time limit, because a
pattern such as ``^(a+)+$`` can take exponential time. A stranger's pattern is not matched at all.
Each check may compare `MOST_PARTS` parts: references that double (`allOf` of two references, each
to the next such pair) describe an exponential amount of work.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice
from typing import Any, Final, Literal, cast

SHOWN_ERRORS = 5
LONGEST_MESSAGE = 300

MOST_ERRORS = 1000
"""Errors that are collected before they are sorted: a long list may have one in each item."""

MOST_PARTS = 1_000_000
"""Parts of a value that are compared with a part of a schema: about six seconds of work."""

MOST_SECONDS = 1.0
"""Seconds that all patterns of a check may take together."""

LONGEST_PATTERN = 5_000

LONGEST_REMEMBERED = 20_000
"""Characters of a schema above which a check of it is not remembered."""

Texts = Literal["exact", "converted", "any"]
"""Which texts count as a number or a flag: none; texts that read as one, as servers convert them;
or all, because the caller can still write the text as one.
"""

DATA: Final = frozenset({"const", "default", "enum", "examples"})
"""Keywords that hold data; keys in the data are not keywords."""

NAMED: Final = frozenset(
    {
        "properties",
        "patternProperties",
        "$defs",
        "definitions",
        "dependentSchemas",
        "dependencies",
    }
)
"""Keywords that hold schemas by name; these names are not keywords, either."""


class UnusableSchema(ValueError):
    """The schema itself is invalid, or refers to a document that is not part of it."""


class TooMuchWork(UnusableSchema):
    """Checking the value would take too long; the message names the part that takes the time."""


@dataclass(frozen=True, slots=True)
class Misfit:
    """One way in which a value does not fit a schema.

    Args:
        place: Its JSON path, such as ``$.nodes``.
    """

    place: str
    message: str

    def __str__(self) -> str:
        return f"{self.place}: {self.message}"


@dataclass(slots=True)
class Work:
    """How much work is left for one check, or for several that share it.

    Args:
        parts: Parts of a value that may still be compared.
        seconds: Seconds that patterns may still take.
    """

    parts: int = MOST_PARTS
    seconds: float = MOST_SECONDS

    def spend(self) -> None:
        """Use up one part.

        Raises:
            TooMuchWork: None is left.
        """
        self.parts -= 1
        if self.parts < 0:
            message = f"the check takes more than {MOST_PARTS:,} comparisons"
            raise TooMuchWork(f"{message}: its references may refer to each other in a ring")

    def matches(self, pattern: str, text: str) -> bool:
        """Whether a pattern matches anywhere in a text.

        Raises:
            TooMuchWork: It takes too long.
            UnusableSchema: It is not a pattern.
        """
        import time

        from fractale.regexes import is_found, too_slow

        started, limit = time.monotonic(), self.seconds
        try:
            found = limit > 0 and is_found(pattern, text, limit, longest=LONGEST_PATTERN)
        except TimeoutError:
            self.seconds = 0.0
            raise TooMuchWork(f"pattern `{pattern[:80]}`: {too_slow(MOST_SECONDS)}") from None
        except ValueError as error:
            raise UnusableSchema(f"pattern `{pattern[:80]}`: {error}") from error
        if limit <= 0:
            raise TooMuchWork(f"the patterns take more than {MOST_SECONDS:g} s together")
        self.seconds -= time.monotonic() - started
        return found


def misfits(
    schema: Mapping[str, Any],
    value: Any,
    *,
    trusted: bool = False,
    texts: Texts = "exact",
    formats: Any = None,
    work: Work | None = None,
) -> list[Misfit]:
    """The places in which a value does not fit a schema.

    Args:
        trusted: Whether the schema is the user's own: then its patterns are matched, too.
        formats: jsonschema's `FormatChecker`; None: formats are not checked.
        work: How much work is left, if several checks share it.

    Returns:
        At most `SHOWN_ERRORS`, in the order of their places; empty if the value fits.

    Raises:
        UnusableSchema: The schema cannot be used.
        TooMuchWork: The check reached its limit.
    """
    work = work or Work()
    with _unusable():
        fix = _Names.of(value, work) if trusted else _without_patterns
        return _compiled(schema, fix, work).misfits(value, texts=texts, formats=formats, work=work)


def compile_schema(schema: Mapping[str, Any]) -> CompiledSchema:
    """A stranger's schema, prepared to check many values.

    Raises:
        UnusableSchema: The schema cannot be used.
    """
    with _unusable():
        return _compiled(schema, _without_patterns, Work())


def _compiled(schema: Any, fix: Callable[[Table], Table], work: Work) -> CompiledSchema:
    from jsonschema import Draft202012Validator
    from jsonschema.validators import validator_for

    table = _rewritten(schema, fix)
    # jsonschema does not export its types.
    kind = cast("Any", validator_for(table, default=Draft202012Validator))
    _check(kind, table, work)
    return CompiledSchema(kind, table)


@dataclass(frozen=True, slots=True)
class CompiledSchema:
    """A schema that JSON Schema's own rules accept.

    Args:
        kind: The validator class for the version of JSON Schema that it is written in.
        table: The schema without the patterns that are not to be matched.
    """

    kind: Any
    table: Any

    def misfits(
        self, value: Any, *, texts: Texts = "exact", formats: Any = None, work: Work | None = None
    ) -> list[Misfit]:
        """The places in which a value does not fit; see the function `misfits`."""
        from referencing import Registry

        registry = cast("Any", Registry)()  # a registry without documents
        checker = _checker(work or Work(), formats)
        validator = _bounded(self.kind)(self.table, registry=registry, format_checker=checker)
        with _unusable():
            errors = (e for e in validator.iter_errors(value) if not _is_meant(e, texts))
            found = list(islice(errors, MOST_ERRORS))
        found.sort(key=_place)
        return [Misfit(_place(e), e.message[:LONGEST_MESSAGE]) for e in found[:SHOWN_ERRORS]]


@contextmanager
def _unusable() -> Generator[None]:
    """Turn the errors of a check into `UnusableSchema`."""
    from referencing.exceptions import Unresolvable

    try:
        yield
    except UnusableSchema:
        raise
    except RecursionError:
        raise UnusableSchema("it is nested too deeply, or refers to itself") from None
    except (Unresolvable, ValueError, TypeError, LookupError) as error:
        raise UnusableSchema(str(getattr(error, "message", error))) from error


def check_schema(schema: Any) -> None:
    """Check that a user's own schema can be used.

    Raises:
        UnusableSchema: It is not a JSON Schema, or one of its patterns is invalid.
    """
    try:
        for path, reason in faults_of(schema):
            raise UnusableSchema(f"{reason} (at `{'.'.join(map(str, path))}`)")
    except RecursionError:
        raise UnusableSchema("it is nested too deeply") from None


def faults_of(schema: Any) -> Iterator[tuple[list[str | int], str]]:
    """The faults of a user's own schema: each with its path, and a text.

    Patterns and references come first; if they are right, JSON Schema's own rules.
    """
    right = True
    for path, keyword, value in keywords(schema):
        if reason := _fault_at(schema, keyword, value):
            right = False
            yield [*path], reason
    if right:
        from jsonschema import Draft202012Validator

        try:
            _check(cast("Any", Draft202012Validator), schema, Work())
        except _NotASchema as error:
            yield error.path, f"not a JSON Schema: {error}"


def _fault_at(schema: Any, keyword: str, value: Any) -> str | None:
    """The fault in the value of a keyword, or None."""
    if keyword in ("$ref", "$dynamicRef", "$recursiveRef") and isinstance(value, str):
        return _reference_fault(schema, value)
    patterns = [value] if keyword == "pattern" and isinstance(value, str) else []
    if keyword == "patternProperties" and isinstance(value, Mapping):
        patterns = [*map(str, cast("Mapping[str, Any]", value))]
    return next(filter(None, map(_pattern_fault, patterns)), None)


def _pattern_fault(pattern: str) -> str | None:
    from fractale.regexes import check_syntax

    try:
        check_syntax(pattern, LONGEST_PATTERN)
    except ValueError as error:
        return f"pattern `{pattern[:80]}` cannot be used: {error}"
    return None


def _reference_fault(schema: Any, reference: str) -> str | None:
    shown = reference[:80]
    if not reference.startswith("#"):
        return f"a reference must start with `#` (inside this schema), not `{shown}`"
    if "/patternProperties/" in reference:
        return f"`{shown}` points into `patternProperties`: put that schema under `$defs`"
    if reference.startswith("#/") and not _leads_somewhere(schema, reference):
        return f"`{shown}` leads nowhere in this schema"
    anchors = ("$anchor", "$dynamicAnchor")
    if reference[1:] and not reference.startswith("#/"):
        for _, keyword, value in keywords(schema):
            if keyword in anchors and value == reference[1:]:
                return None
            if keyword in ("$id", "id") and value == reference:
                return None
        return f'`{shown}` leads nowhere: no part of this schema has `$anchor: "{shown[1:]}"`'
    return None


def _leads_somewhere(schema: Any, pointer: str) -> bool:
    for word in pointer[2:].split("/"):
        key = word.replace("~1", "/").replace("~0", "~")
        if isinstance(schema, list):
            items = cast("list[Any]", schema)
            schema = dict(zip(map(str, range(len(items))), items, strict=True))
        if not isinstance(schema, Mapping) or key not in schema:
            return False
        schema = cast("Mapping[str, Any]", schema)[key]
    return True


def keywords(
    schema: Any, path: tuple[str | int, ...] = ()
) -> Iterator[tuple[tuple[str | int, ...], str, Any]]:
    """Every keyword of a schema and of its parts: its path, its name, its value."""
    if isinstance(schema, list):
        for index, each in enumerate(cast("list[Any]", schema)):
            yield from keywords(each, (*path, index))
    elif isinstance(schema, Mapping):
        for key, value in cast("Mapping[str, Any]", schema).items():
            yield (*path, key), key, value
            if key in NAMED and isinstance(value, Mapping):
                for name, each in cast("Mapping[str, Any]", value).items():
                    yield from keywords(each, (*path, key, name))
            elif key not in DATA:
                yield from keywords(value, (*path, key))


Table = dict[str, Any]


def _rewritten(schema: Any, fix: Callable[[Table], Table]) -> Any:
    """A schema each of whose parts went through `fix`."""
    if isinstance(schema, list):
        return [_rewritten(each, fix) for each in cast("list[Any]", schema)]
    if not isinstance(schema, Mapping):
        return schema
    table: Table = {}
    for key, value in cast("Mapping[str, Any]", schema).items():
        if key in NAMED and isinstance(value, Mapping):
            named = cast("Mapping[str, Any]", value)
            table[key] = {name: _rewritten(each, fix) for name, each in named.items()}
        else:
            table[key] = value if key in DATA else _rewritten(value, fix)
    return fix(table)


def _without_patterns(table: Table) -> Table:
    """A part without patterns, and without keywords that depend on their matches."""
    left = {"pattern"}
    if "patternProperties" in table:
        left |= {"patternProperties", "additionalProperties", "unevaluatedProperties"}
    return {key: each for key, each in table.items() if key not in left}


@dataclass(frozen=True, slots=True)
class _Names:
    """The names of all members of a value, to write out the patterns of names for each of them.

    jsonschema matches such patterns itself, without a time limit.
    """

    names: frozenset[str]
    work: Work

    @classmethod
    def of(cls, value: Any, work: Work) -> Callable[[Table], Table]:
        names, left = set[str](), [value]
        while left:
            each = left.pop()
            if isinstance(each, Mapping):
                table = cast("Mapping[str, Any]", each)
                names.update(str(name) for name in table)
                left += table.values()
            elif isinstance(each, (list, tuple)):
                left += cast("list[Any]", each)
        return cls(frozenset(names), work).spelled_out

    def spelled_out(self, table: Table) -> Table:
        """A part with ``properties`` instead of ``patternProperties``."""
        patterns = table.get("patternProperties")
        if not isinstance(patterns, dict):
            return table
        own = cast("Any", table.get("properties"))
        properties: Table = {**own} if isinstance(own, dict) else {}
        for pattern, schema in cast("Table", patterns).items():
            for name in self.names:
                if self.work.matches(pattern, name):
                    properties[name] = {"allOf": [properties.get(name, True), schema]}
        rest = {key: each for key, each in table.items() if key != "patternProperties"}
        return {**rest, "properties": properties}


@dataclass(frozen=True, slots=True)
class _Checked:
    """A schema that is checked against JSON Schema's own rules, and the work left for that.

    Two are equal if their schemas are.
    """

    text: str
    table: Any = field(compare=False)
    work: Work = field(compare=False)


def _check(kind: Any, table: Any, work: Work) -> None:
    """Check that a table is a schema.

    The schemas of tools and agents are used again and again, and their checks take longer than
    those of values. So short ones are remembered.

    Raises:
        UnusableSchema: It is not.
    """
    text = repr(table)  # JSON would not distinguish keys of other types from texts
    check = _check_once if len(text) <= LONGEST_REMEMBERED else _check_once.__wrapped__
    check(kind, _Checked(text, table, work))


@lru_cache(maxsize=256)
def _check_once(kind: Any, schema: _Checked) -> None:
    validator = _bounded(kind)(kind.META_SCHEMA, format_checker=_checker(schema.work, None))
    for error in validator.iter_errors(schema.table):
        raise _NotASchema(str(error.message), [*error.absolute_path])


class _NotASchema(UnusableSchema):
    """A part of a schema breaks JSON Schema's rules.

    Attributes:
        path: Which part.
    """

    def __init__(self, message: str, path: list[str | int]) -> None:
        super().__init__(message)
        self.path = path


def _checker(work: Work, formats: Any) -> Any:
    """A format checker that also carries the remaining work of a check.

    jsonschema passes it to each part of a check, and has no other place for such an object.
    """
    from jsonschema import FormatChecker

    checker = cast("Any", FormatChecker(formats=()))
    checker.checkers = formats.checkers if formats is not None else {}
    checker.work = work
    return checker


@lru_cache(maxsize=16)
def _bounded(kind: Any) -> Any:
    """A validator class of jsonschema that stops at the limit of its work."""
    from jsonschema import validators
    from jsonschema.exceptions import ValidationError

    def pattern(validator: Any, pattern: Any, instance: Any, _: Any) -> Iterator[Any]:
        work: Work = validator.format_checker.work
        if validator.is_type(instance, "string") and not work.matches(pattern, instance):
            yield ValidationError(f"{instance!r} does not match {pattern!r}")

    def unique(validator: Any, wanted: Any, instance: Any, _: Any) -> Iterator[Any]:
        # jsonschema's own check compares every pair of items that cannot be sorted.
        if wanted and validator.is_type(instance, "array"):
            items = cast("list[Any]", instance)
            if len({_written(each) for each in items}) < len(items):
                yield ValidationError(f"{instance!r} has non-unique elements")

    bounded = cast("Any", validators).extend(kind, {"pattern": pattern, "uniqueItems": unique})

    def evolve(self: Any, **changes: Any) -> Any:
        self.format_checker.work.spend()
        names = ("schema", "resolver", "format_checker", "registry", "_resolver")
        fields = ("schema", "_ref_resolver", "format_checker", "_registry", "_resolver")
        now = {name: getattr(self, field) for name, field in zip(names, fields, strict=True)}
        return type(self)(**{**now, **changes})

    bounded.evolve = evolve
    return bounded


def _written(value: Any) -> str:
    """A text that equal values share: JSON numbers are equal however they are written."""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, list):
        return f"[{','.join(map(_written, cast('list[Any]', value)))}]"
    if isinstance(value, dict):
        members = sorted(cast("Table", value).items())
        return f"{{{','.join(f'{json.dumps(k)}:{_written(v)}' for k, v in members)}}}"
    return json.dumps(value)


def _place(error: Any) -> str:
    return cast("str", error.json_path)


def _is_meant(error: Any, texts: Texts) -> bool:
    """Whether a text was found where a number or a flag is expected, and may count as one."""
    if texts == "exact":
        return False
    if error.validator in ("anyOf", "oneOf"):
        return any(_is_meant(each, texts) for each in error.context or ())
    if error.validator != "type" or not isinstance(error.instance, str):
        return False
    return texts == "any" or _reads_as(error.instance.strip(), error.validator_value)


def _reads_as(text: str, expected: Any) -> bool:
    kinds = {expected} if isinstance(expected, str) else set(expected)
    if "boolean" in kinds and text.casefold() in ("true", "false"):
        return True
    if not kinds & {"integer", "number"}:
        return False
    try:
        float(text)
    except ValueError:
        return False
    return True
