"""Options as getopt_long(3) reads them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class Option:
    """An option of a program.

    Args:
        name: Its long name, without dashes; empty where it has none.
        letter: Its short name.
        argument: Whether a value follows it; an ``optional`` one only attached to it.
        exact: Whether its long name counts only if it is written in full, as that of an option
            that not every release of the program has.
    """

    name: str
    letter: str = ""
    argument: Literal["none", "required", "optional"] = "required"
    exact: bool = False


@dataclass(frozen=True, slots=True)
class Given:
    """An option as it was found.

    Args:
        option: None where the program has none of that name, or where it cannot be told which of
            several an abbreviation means.
        value: None where there is none.
        text: As written.
        why: What is wrong with it; empty where nothing is.
        first, last: Index of the first and the last word that it is written in.
    """

    option: Option | None
    value: str | None
    text: str
    why: str = ""
    first: int = 0
    last: int = 0


@dataclass(frozen=True, slots=True)
class Said:
    """What the value of an option says.

    Args:
        fields: Fields of a `Request`.
        untold: What of it no field can say; empty if the fields say all of it.
    """

    fields: Mapping[str, Any]
    untold: str = ""


def getopt(words: Sequence[str], options: Sequence[Option]) -> Iterator[Given]:
    """The options among words.

    They are written ``--name value``, ``--name=value``, as a unique abbreviation of a long name,
    ``-n 2`` or ``-n2``, and letters without a value together. A word that is no option is given
    with `option` None; what comes after ``--`` too.
    """
    at = 0
    while at < len(words):
        word = words[at]
        if word == "--":
            yield from (
                Given(None, None, words[i], "stands after `--`", i, i)
                for i in range(at + 1, len(words))
            )
            return
        if word.startswith("--"):
            given = _long(words, at, options)
            yield given
            at = given.last + 1
        elif word.startswith("-") and len(word) > 1:
            last = at
            for given in _short(words, at, options):
                yield given
                last = given.last
            at = last + 1
        else:
            yield Given(None, None, word, f"`{word}` is not an option", at, at)
            at += 1


def _long(words: Sequence[str], at: int, options: Sequence[Option]) -> Given:
    word = words[at]
    name, equals, value = word[2:].partition("=")
    option = next((each for each in options if each.name == name and name), None)
    if option is None:
        found = [each for each in options if each.name.startswith(name) and not each.exact]
        if len(found) != 1:
            return Given(None, None, word, _not_one(name, found), at, at)
        option = found[0]
    if option.argument == "none":
        why = f"`--{option.name}` takes no value" if equals else ""
        return Given(option, None, word, why, at, at)
    if equals:
        return Given(option, value, word, "", at, at)
    if option.argument == "optional":
        return Given(option, None, word, "", at, at)
    if at + 1 == len(words):
        return Given(option, None, word, f"`--{option.name}` needs a value", at, at)
    return Given(option, words[at + 1], f"{word} {words[at + 1]}", "", at, at + 1)


def _not_one(name: str, found: Sequence[Option]) -> str:
    if not found or not name:
        return f"there is no option `--{name}`"
    names = ", ".join(f"--{each.name}" for each in found[:4])
    return f"`--{name}` may be any of {names}"


def _short(words: Sequence[str], at: int, options: Sequence[Option]) -> Iterator[Given]:
    word = words[at]
    letters = word[1:]
    while letters:
        letter, letters = letters[0], letters[1:]
        option = next((each for each in options if each.letter == letter), None)
        if option is None:
            yield Given(None, None, word, f"there is no option `-{letter}`", at, at)
            return
        if option.argument == "none":
            yield Given(option, None, f"-{letter}", "", at, at)
            continue
        if letters or option.argument == "optional":
            yield Given(option, letters or None, f"-{letter}{letters}", "", at, at)
            return
        if at + 1 == len(words):
            yield Given(option, None, f"-{letter}", f"`-{letter}` needs a value", at, at)
            return
        value = words[at + 1]
        yield Given(option, value, f"-{letter} {value}", "", at, at + 1)
        return
