"""Options as getopt_long(3) reads them, and the meaning of their values."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from fractale.text import nearest


@dataclass(frozen=True, slots=True)
class Option:
    """An option of a program.

    Args:
        name: Long name, without dashes; empty without one.
        letter: Short name.
        argument: Whether a value follows; an ``optional`` value has to be attached.
        exact: Whether only the full long name is valid, because not every release of the program
            has the option.
    """

    name: str
    letter: str = ""
    argument: Literal["none", "required", "optional"] = "required"
    exact: bool = False


class OptionTable:
    """The options of a program, in the given order."""

    def __init__(self, options: Iterable[Option]) -> None:
        self._all = tuple(options)
        self.by_name: Mapping[str, Option] = {o.name: o for o in reversed(self._all) if o.name}
        self.by_letter: Mapping[str, Option] = {o.letter: o for o in reversed(self._all)}

    def __iter__(self) -> Iterator[Option]:
        return iter(self._all)


@dataclass(frozen=True, slots=True)
class GivenOption:
    """An option as written.

    Args:
        option: None if the program does not have the option, or if an abbreviation is ambiguous.
        value: None without a value.
        text: As written.
        why: The fault of the option; empty if it is valid.
        first, last: Indices of its first and last word.
    """

    option: Option | None
    value: str | None
    text: str
    why: str = ""
    first: int = 0
    last: int = 0


@dataclass(frozen=True, slots=True)
class Said:
    """The meaning of an option's value.

    Args:
        fields: Fields of a `Request` → their values.
        untold: The part that no field can express; empty if the fields express all of it.
    """

    fields: Mapping[str, Any]
    untold: str = ""


def getopt(words: Sequence[str], options: OptionTable) -> Iterator[GivenOption]:
    """Yield the options among the words.

    Valid forms are ``--name value``, ``--name=value``, ``-n 2`` and ``-n2``, a unique abbreviation
    of a long name, and several letters without values in one word. For words that are not options,
    and for all words after ``--``, `option` is None.
    """
    at = 0
    while at < len(words):
        word = words[at]
        if word == "--":
            yield from (
                GivenOption(None, None, words[i], "is after `--`", i, i)
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
            yield GivenOption(None, None, word, f"`{word}` is not an option", at, at)
            at += 1


def _long(words: Sequence[str], at: int, options: OptionTable) -> GivenOption:
    word = words[at]
    name, equals, value = word[2:].partition("=")
    option = options.by_name.get(name)
    if option is None:
        found = [each for each in options if each.name.startswith(name) and not each.exact]
        if len(found) != 1:
            return GivenOption(None, None, word, _not_one(name, found, options), at, at)
        option = found[0]
    if option.argument == "none":
        why = f"`--{option.name}` takes no value" if equals else ""
        return GivenOption(option, None, word, why, at, at)
    if equals:
        return GivenOption(option, value, word, "", at, at)
    if option.argument == "optional":
        return GivenOption(option, None, word, "", at, at)
    if at + 1 == len(words):
        return GivenOption(option, None, word, f"`--{option.name}` needs a value", at, at)
    return GivenOption(option, words[at + 1], f"{word} {words[at + 1]}", "", at, at + 1)


def _not_one(name: str, found: Sequence[Option], options: OptionTable) -> str:
    if found and name:
        names = ", ".join(f"--{each.name}" for each in found[:4])
        return f"`--{name}` is ambiguous: {names}"
    names = [each.name for each in options if each.name]
    near = nearest(name, names)
    return f"unknown option `--{name}`" + (f": did you mean --{near}?" if near else "")


def _short(words: Sequence[str], at: int, options: OptionTable) -> Iterator[GivenOption]:
    word = words[at]
    letters = word[1:]
    while letters:
        letter, letters = letters[0], letters[1:]
        option = options.by_letter.get(letter)
        if option is None:
            yield GivenOption(None, None, word, f"unknown option `-{letter}`", at, at)
            return
        if option.argument == "none":
            yield GivenOption(option, None, f"-{letter}", "", at, at)
            continue
        if letters or option.argument == "optional":
            yield GivenOption(option, letters or None, f"-{letter}{letters}", "", at, at)
            return
        if at + 1 == len(words):
            yield GivenOption(option, None, f"-{letter}", f"`-{letter}` needs a value", at, at)
            return
        value = words[at + 1]
        yield GivenOption(option, value, f"-{letter} {value}", "", at, at + 1)
        return
