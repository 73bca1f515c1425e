"""Options as getopt_long(3) reads them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Option:
    """An option of a program.

    Args:
        name: Its long name, without dashes; empty where it has none.
        letter: Its short name.
        argument: Whether a value follows it; an ``optional`` one only attached to it.
    """

    name: str
    letter: str = ""
    argument: Literal["none", "required", "optional"] = "required"


@dataclass(frozen=True, slots=True)
class Given:
    """An option as it was found.

    Args:
        option: None where the program has none of that name, or where it cannot be told which of
            several an abbreviation means.
        value: None where there is none.
        text: As written.
        why: What is wrong with it; empty where nothing is.
    """

    option: Option | None
    value: str | None
    text: str
    why: str = ""


def getopt(words: Sequence[str], options: Sequence[Option]) -> Iterator[Given]:
    """The options among words.

    They are written ``--name value``, ``--name=value``, as a unique abbreviation of a long name,
    ``-n 2`` or ``-n2``, and letters without a value together. A word that is no option is given
    with `option` None; what comes after ``--`` too.
    """
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if word == "--":
            yield from (Given(None, None, each, "stands after `--`") for each in rest)
            return
        if word.startswith("--"):
            yield _long(word, rest, options)
        elif word.startswith("-") and len(word) > 1:
            yield from _short(word, rest, options)
        else:
            yield Given(None, None, word, f"`{word}` is not an option")


def _long(word: str, rest: list[str], options: Sequence[Option]) -> Given:
    name, equals, value = word[2:].partition("=")
    exact = [each for each in options if each.name == name]
    found = exact or [each for each in options if each.name and each.name.startswith(name)]
    if len(found) != 1:
        if not found:
            return Given(None, None, word, f"there is no option `--{name}`")
        names = ", ".join(f"--{each.name}" for each in found[:4])
        return Given(None, None, word, f"`--{name}` may be any of {names}")
    option = found[0]
    if option.argument == "none":
        why = f"`--{option.name}` takes no value" if equals else ""
        return Given(option, None, word, why)
    if equals:
        return Given(option, value, word)
    if option.argument == "optional":
        return Given(option, None, word)
    if not rest:
        return Given(option, None, word, f"`--{option.name}` needs a value")
    value = rest.pop(0)
    return Given(option, value, f"{word} {value}")


def _short(word: str, rest: list[str], options: Sequence[Option]) -> Iterator[Given]:
    letters = word[1:]
    while letters:
        letter, letters = letters[0], letters[1:]
        option = next((each for each in options if each.letter == letter), None)
        if option is None:
            yield Given(None, None, word, f"there is no option `-{letter}`")
            return
        if option.argument == "none":
            yield Given(option, None, f"-{letter}")
            continue
        if letters or option.argument == "optional":
            yield Given(option, letters or None, f"-{letter}{letters}")
            return
        if not rest:
            yield Given(option, None, f"-{letter}", f"`-{letter}` needs a value")
            return
        value = rest.pop(0)
        yield Given(option, value, f"-{letter} {value}")
        return
