r"""The one masker: known secrets become ``***``, in whatever form a text has them.

A `Masker` knows the secrets and is applied at each boundary: events, journal, outputs and
checkpoints, exports, error texts, and requests to models. It finds a secret

- as it is, and line by line if it has several lines (lines of 8 characters or more),
- with the escapes of JSON, URLs, HTML and Python, also one within the other,
- broken into lines, as a terminal, YAML or ``base64`` folds a long text,
- in base64 (both alphabets, with or without padding, also in the middle of a longer one),
- in hexadecimal, also with colons between the bytes.

A secret of fewer than `SHORT` characters, and one that is a number, is only found as a whole word:
otherwise ordinary text would be masked, too. A secret that was changed in another way (reversed,
compressed, encrypted, in base32, UTF-16, octal or capitals) is not found.
"""

from __future__ import annotations

import base64
import html
import json
import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final, cast
from urllib.parse import quote, quote_plus

MASK: Final = "***"
SHORT: Final = 8
"""A secret with fewer characters is only masked if it is a whole word."""

_MOST_LAYERS: Final = 4
"""How many levels of escapes are searched, such as JSON in a JSON string."""

_FOLD: Final = re.compile(r"[ \t]*[\r\n][ \t\r\n]*")
_OF_WEB: Final = (
    r"%[0-7][0-9a-fA-F]|(?:%[89a-fA-F][0-9a-fA-F])+"  # in UTF-8, all bytes of a character
    r"|&(?:amp|lt|gt|quot|apos|\#[0-9]{1,5}|\#x[0-9a-fA-F]{1,4});"
)
_ESCAPE: Final = re.compile(
    r"""\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}  # two units, one character
        |u[0-9a-fA-F]{4}|x[0-9a-fA-F]{2}|[nrtbf"'\\/])
    |"""
    + _OF_WEB,
    re.VERBOSE,
)
_ESCAPE_OF_WEB: Final = re.compile(_OF_WEB)
_CONTROL: Final = {"n": "\n", "r": "\r", "t": "\t", "b": "\b", "f": "\f"}
_CUT_ESCAPE: Final = re.compile(
    r"(?:\\(?:u[0-9a-fA-F]{0,3}|x[0-9a-fA-F]?)?|%[0-9a-fA-F]?|&[#a-zA-Z0-9]{0,6})\Z"
)
"""The beginning of an escape at the end of a text."""

_BASE64_CHARACTER: Final = re.compile(r"[A-Za-z0-9+/_-]")


class Masker:
    """Replaces known secrets in texts and JSON values by ``***``.

    Args:
        secrets: Texts that must not be shown, stored or sent to anyone.
    """

    def __init__(self, secrets: Iterable[str | None] = ()) -> None:
        self._secrets: set[str] = {each for each in secrets if each and each.strip()}
        self._found: _Needles | None = None

    def __bool__(self) -> bool:
        """Whether it knows any secret."""
        return bool(self._secrets)

    def add(self, *secrets: str) -> None:
        """Mask these from now on, too, in all uses of this masker."""
        new = {each for each in secrets if each and each.strip()} - self._secrets
        if new:
            self._secrets |= new
            self._found = None

    def with_secrets(self, secrets: Iterable[str | None]) -> Masker:
        """A new masker that also knows these secrets."""
        return Masker({*self._secrets, *secrets})

    def __call__(self, value: Any) -> Any:
        """The same JSON value with each secret in it masked, in keys, too."""
        if not self._secrets:
            return value
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping):
            table = cast("Mapping[Any, Any]", value)
            return {self(key): self(item) for key, item in table.items()}
        if isinstance(value, (list, tuple)):
            return [self(item) for item in cast("list[Any]", value)]
        return value

    def text(self, text: str) -> str:
        """The same text with each secret in it masked."""
        if not self._secrets or not text:
            return text
        spans = self._needles.spans(text)
        if not spans:
            return text
        parts: list[str] = []
        end = 0
        for start, stop in spans:
            parts += [text[end:start], MASK]
            end = stop
        return "".join([*parts, text[end:]])

    def data(self, data: bytes) -> bytes:
        """Bytes that are text, with each secret masked; other bytes unchanged."""
        if not self._secrets or b"\0" in data:
            return data
        text = data.decode("utf-8", "surrogateescape")
        masked = self.text(text)
        return data if masked == text else masked.encode("utf-8", "surrogateescape")

    def stream(self, take: Callable[[str], None]) -> MaskedStream:
        """A stream whose pieces reach `take` masked, even if a secret is split between them."""
        return MaskedStream(self, take)

    def decided(self, text: str) -> int:
        """The number of characters that can be masked before the rest of the text is known."""
        if not self._secrets:
            return len(text)
        end = self._needles.held(text)
        for start, stop in reversed(self._needles.spans(text)):
            if start < end < stop:  # one secret may be within the end of another
                end = start
        return end

    @property
    def _needles(self) -> _Needles:
        if self._found is None:
            self._found = _Needles(self._secrets)
        return self._found


class MaskedStream:
    """Text that comes in pieces, passed on masked.

    A possible beginning of a secret is held back until the next piece, or the end, decides.
    """

    def __init__(self, masker: Masker, take: Callable[[str], None]) -> None:
        self._masker = masker
        self._take = take
        self._held = ""

    def feed(self, piece: str) -> None:
        text = self._held + piece
        end = self._masker.decided(text)
        self._held = text[end:]
        if end:
            self._take(self._masker.text(text[:end]))

    def end(self) -> None:
        """Pass on the text that is held back: nothing follows."""
        held, self._held = self._masker.text(self._held), ""
        if held:
            self._take(held)


class _Needles:
    """The forms that secrets have in texts, and where they are.

    A text is searched twice: as it is, and without its escapes. Line breaks are removed both times,
    so that a folded secret is found. Matches are reported as places in the text itself. Python
    finds each needle in a text faster than one pattern finds any of them.
    """

    def __init__(self, secrets: Iterable[str]) -> None:
        # Needle → the number of characters before and after it that have bits of the secret.
        self._beside: dict[str, tuple[int, int]] = {}
        words: set[str] = set()
        for secret in secrets:
            if len(secret.strip()) < SHORT or secret.isdecimal():
                words |= _forms_of_word(secret.strip())
            else:
                self._add(secret)
        self._sorted = sorted(self._beside)
        self._heads = {needle[:_HEAD] for needle in self._sorted}
        self._longest = max(map(len, self._sorted), default=0)
        self._words = re.compile(_word_pattern(words)) if words else None

    def _add(self, secret: str) -> None:
        whole = {_unfolded(secret), _bare(secret)}
        for needle in {*whole, *_lines(secret), *(each.replace(" ", "+") for each in whole)}:
            if len(needle) >= SHORT:
                self._beside.setdefault(needle, (0, 0))
        if secret.endswith("\\"):  # read without its escapes, it would escape what follows it
            for ensure_ascii in (True, False):
                form = json.dumps(secret, ensure_ascii=ensure_ascii)[1:-1]
                self._beside.setdefault(form, (0, 0))
                self._beside.setdefault(json.dumps(form)[1:-1], (0, 0))
        escaped = {json.dumps(secret)[1:-1], quote(secret, safe="", errors="replace")}
        for form in {secret, secret.strip(), *escaped}:
            data = form.encode("utf-8", "replace")
            for text in _hex(data):
                self._beside.setdefault(text, (0, 0))
            for offset in range(3):
                core, beside = _base64_core(data, offset)
                for text in (core, core.replace("+", "-").replace("/", "_")):
                    self._beside.setdefault(text, beside)

    def spans(self, text: str) -> list[tuple[int, int]]:
        """The places of secrets, in order and without overlaps."""
        found: list[tuple[int, int]] = []
        plain = _unfolded(text)
        if needles := self._in(plain):
            found += self._places(needles, [_View.folded(text)])
        if "\\" in text or "%" in text or "&" in text:
            bare = _bare(text)
            if bare != plain and (needles := self._in(bare)):
                found += self._places(needles, _views(text))
        if self._words:
            found += [match.span() for match in self._words.finditer(text)]
        return _merged(found)

    def _in(self, text: str) -> list[str]:
        return [needle for needle in self._sorted if needle in text]

    def _places(self, needles: Iterable[str], views: list[_View]) -> Iterator[tuple[int, int]]:
        """The places of needles in the first of the views, searched for in the last one."""
        text = views[-1].text
        for needle in needles:
            before, after = self._beside[needle]
            start = text.find(needle)
            while start >= 0:
                end = start + len(needle)
                is_before = before and start and _BASE64_CHARACTER.match(text[start - 1])
                is_after = after and end < len(text) and _BASE64_CHARACTER.match(text[end])
                place = (start - 1 if is_before else start, end + 1 if is_after else end)
                for view in reversed(views):
                    place = view.place(*place)
                yield place
                start = text.find(needle, start + 1)

    def held(self, text: str) -> int:
        """The start of a possible beginning of a needle at the end of the text."""
        end = len(text)
        cut = _CUT_ESCAPE.search(text)
        whole = cut.start() if cut else end
        # An escape has at most six characters for one, and may itself be escaped.
        for start in range(max(0, end - 8 * self._longest), whole):
            head = text[start : min(whole, start + 8 * _HEAD)]
            if self._begins(head, _HEAD) and self._begins(text[start:whole], None):
                return min(start, self._held_word(text, whole))
        return self._held_word(text, whole)

    def _begins(self, text: str, most: int | None) -> bool:
        """Whether the text may be the beginning of a needle, or begins with one."""
        for bare in {_unfolded(text), _bare(text)}:
            piece = bare[:most]
            if not piece:
                continue
            if most is not None and len(piece) == most:
                if piece in self._heads:
                    return True
                continue
            index = bisect_left(self._sorted, piece)
            if index < len(self._sorted) and self._sorted[index].startswith(piece):
                return True
        return False

    def _held_word(self, text: str, whole: int) -> int:
        """A short secret is a whole word: it may only be passed on when the word has ended."""
        if self._words is None:
            return whole
        found = re.search(r"[^\s]*\Z", text)
        return min(whole, found.start()) if found and len(text) - found.start() < 200 else whole


_HEAD: Final = 4
"""Characters of a needle that are compared first."""


class _View:
    """A text with parts left out or replaced, and where each part came from."""

    def __init__(
        self, text: str, pattern: re.Pattern[str], of: Callable[[re.Match[str]], str]
    ) -> None:
        parts: list[str] = []
        self._starts: list[int] = []
        self._origins: list[tuple[int, int, bool]] = []
        position = end = 0
        for match in pattern.finditer(text):
            if match.start() > end:
                self._starts.append(position)
                self._origins.append((end, match.start(), True))
                parts.append(text[end : match.start()])
                position += match.start() - end
            if made := of(match):
                self._starts.append(position)
                self._origins.append((match.start(), match.end(), False))
                parts.append(made)
                position += len(made)
            end = match.end()
        if end < len(text):
            self._starts.append(position)
            self._origins.append((end, len(text), True))
            parts.append(text[end:])
        self.text = "".join(parts)

    @classmethod
    def folded(cls, text: str) -> _View:
        return cls(text, _FOLD, lambda _found: "")

    def place(self, start: int, end: int) -> tuple[int, int]:
        """The place in the text that a part of the view came from."""
        index = bisect_right(self._starts, start) - 1
        origin, _, is_same = self._origins[index]
        first = origin + start - self._starts[index] if is_same else origin
        index = bisect_right(self._starts, end - 1) - 1
        origin, stop, is_same = self._origins[index]
        return first, origin + end - self._starts[index] if is_same else stop


def _views(text: str) -> list[_View]:
    """The views from a text to its form without escapes and line breaks."""
    views: list[_View] = []
    for _ in range(_MOST_LAYERS):
        if not _ESCAPE.search(text):
            break
        views.append(_View(text, _ESCAPE, _meant))
        text = views[-1].text
    return [*views, _View.folded(text)]


def _bare(text: str) -> str:
    """A text without escapes and line breaks: that of the last of its `_views`."""
    for _ in range(_MOST_LAYERS):
        bare = text
        if "\\" in bare:
            bare = bare.replace("\\\\", "\0")
            for letter in 'nrt"/':  # true of nearly all texts
                bare = bare.replace(f"\\{letter}", _CONTROL.get(letter, letter))
            if "\\" in bare:
                bare = _ESCAPE.sub(_meant, bare)
            bare = bare.replace("\0", "\\")
        if "%" in bare or "&" in bare:
            bare = _ESCAPE_OF_WEB.sub(_meant, bare)
        if bare == text:
            break
        text = bare
    return _unfolded(text)


def _unfolded(text: str) -> str:
    if "\r" in text:
        text = text.replace("\r", "\n")
    return "".join(line.strip(" \t") for line in text.split("\n")) if "\n" in text else text


def _meant(found: re.Match[str]) -> str:
    """The characters that an escape means."""
    escape = found[0]
    kind = escape[1]
    if escape[0] == "&":
        return html.unescape(escape)
    if escape[0] == "%":
        return bytes.fromhex(escape.replace("%", "")).decode("utf-8", "replace")
    if kind == "u" and len(escape) > 6:
        return str(json.loads(f'"{escape}"'))
    if kind in "ux":
        return chr(int(escape[2:], 16))
    return _CONTROL.get(kind, kind)


def _lines(secret: str) -> list[str]:
    """The lines of a secret with several lines, if they are long enough to be recognized."""
    lines = [line.strip() for line in secret.splitlines()]
    known = [line for line in lines if len(line) >= SHORT and not line.startswith("-----")]
    return known if len(lines) > 1 else []


def _base64_core(data: bytes, offset: int) -> tuple[str, tuple[int, int]]:
    """The common part of every base64 text with the bytes at an offset from a multiple of three.

    Returns:
        The characters that have bits of these bytes only, and how many characters before and after
        have some of their bits.
    """
    text = base64.b64encode(bytes(offset) + data).decode()
    bits = (offset + len(data)) * 8
    first = -(-offset * 8 // 6)
    return text[first : bits // 6], (1 if offset else 0, 1 if bits % 6 else 0)


def _forms_of_word(secret: str) -> set[str]:
    """A short secret as it is, with escapes if it needs them, and as base64 of it alone."""
    data = secret.encode("utf-8", "replace")
    packed = base64.b64encode(data).decode()
    forms = {secret, json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1]}
    forms |= {quote(secret, errors="replace"), quote_plus(secret, errors="replace")}
    if len(secret) >= 4:
        forms |= {packed, packed.rstrip("="), packed.translate({43: "-", 47: "_"})}
        forms |= _hex(data)
    return forms


def _hex(data: bytes) -> set[str]:
    """Bytes in hexadecimal: in small and capital letters, without and with colons between."""
    return {write for text in (data.hex(), data.hex(":")) for write in (text, text.upper())}


def _word_pattern(words: Iterable[str]) -> str:
    """A pattern for words that are not part of a longer word; an escape may be beside them."""
    texts = "|".join(re.escape(word) for word in sorted(words, key=len, reverse=True))
    before = r"(?:(?<![^\W_])|(?<=\\[nrtbf])|(?<=%[0-9a-fA-F]{2}))"
    return rf"{before}(?:{texts})(?![^\W_])"


def _merged(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Spans in order, with overlapping ones merged."""
    merged: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if merged and start < merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged
