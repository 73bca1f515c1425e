"""Words of messages and durations, as every package writes them."""

from __future__ import annotations

import pytest

from fractale.durations import clock, in_words, limit_text
from fractale.text import clip, count, did_you_mean, listing, nearest, similar


@pytest.mark.parametrize(
    ("name", "known", "meant"),
    [
        ("timout", ["timeout", "time"], "timeout"),
        ("Keep-Going", ["keep_going"], "keep_going"),
        ("keep_gong", ["Keep-Going"], "Keep-Going"),
        ("xyz", ["timeout"], None),
        ("timeout", [], None),
        ("t" * 101, ["t" * 100], None),
    ],
)
def test_the_name_that_was_meant(name: str, known: list[str], meant: str | None) -> None:
    assert nearest(name, known) == meant


def test_the_most_similar_names_come_first() -> None:
    assert similar("fil", ["files", "file", "other"], 2) == ["file", "files"]


def test_a_question_only_where_something_is_similar() -> None:
    assert did_you_mean("fil", ["file"], before="; ") == "; did you mean `file`?"
    assert did_you_mean("fil", ["file"], after=" ") == "did you mean `file`? "
    assert did_you_mean("x", ["file"], before="; ") == ""
    assert did_you_mean("x", ["file"], otherwise="one of: file") == "one of: file"


def test_long_texts_and_lists_are_cut() -> None:
    assert clip("one\n  two", 7) == "one two"
    assert clip("one two three", 8) == "one two…"
    assert clip("word " * 10_000, 10) == "word word…"
    assert listing(["a", "b", "c"], 2) == "`a`, `b`, …"


def test_numbers_with_their_nouns() -> None:
    assert [count(1, "error"), count(0, "error"), count(1204, "token")] == [
        "1 error",
        "0 errors",
        "1,204 tokens",
    ]


def test_durations_for_people() -> None:
    assert [in_words(0.12), in_words(42), in_words(200), in_words(7500)] == [
        "0.1 s",
        "42 s",
        "3 min 20 s",
        "2 h 05 min",
    ]
    assert [clock(8), clock(750), clock(3723)] == ["0:08", "12:30", "1:02:03"]
    assert [limit_text(45), limit_text(600), limit_text(7200)] == ["45 s", "10:00", "2:00:00"]
