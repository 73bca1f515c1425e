"""YAML text → nodes with positions: what is read, where it stands, what is refused."""

import time
from itertools import pairwise

import pytest

from fractale.errors import PlanError, Problem
from fractale.plan.node import Node
from fractale.plan.source import MAX_BYTES, MAX_DEPTH, MAX_NODES, read_file, read_source


def problems(text: str | bytes) -> list[Problem]:
    with pytest.raises(PlanError) as caught:
        read_source(text, "plan.yaml")
    return caught.value.problems


def problem(text: str | bytes) -> Problem:
    found = problems(text)
    assert len(found) == 1, found
    return found[0]


def place(node: Node | Problem) -> str:
    assert node.position is not None
    return f"{node.position.line}:{node.position.column}"


def at(text: str, *path: str | int) -> Node:
    node = read_source(text, "plan.yaml")
    for part in path:
        node = node.value[part]  # type: ignore[index,call-overload]
    return node


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("true", True),
        ("True", True),
        ("FALSE", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("12", 12),
        ("-7", -7),
        ("007", 7),
        ("0x1F", 31),
        ("1.5", 1.5),
        (".5", 0.5),
        ("1e3", 1000.0),
        ("18446744073709551615", 2**64 - 1),
        ("yes", "yes"),
        ("on", "on"),
        ("No", "No"),
        ("off", "off"),
        ("y", "y"),
        ("12:30:00", "12:30:00"),
        ("2026-11-22", "2026-11-22"),
        ("0o17", 15),
        ("0o18", "0o18"),
        ("-0o17", "-0o17"),
        ("0755", 755),
        ("0b1", "0b1"),
        ("1_000", "1_000"),
        ("1.2.3", "1.2.3"),
        ("+", "+"),
        ('"12"', "12"),
        ("'true'", "true"),
        ("!!str 12", "12"),
        ("! 12", "12"),
        ("!!int 12", 12),
        ("!!float 3", 3),
        ("!!seq [1]", [1]),
    ],
)
def test_plain_scalars_follow_the_yaml_1_2_core_schema(written: str, value: object) -> None:
    found = at(f"- {written}\n", 0).plain()
    assert (found, type(found)) == (value, type(value))


def test_keys_are_text_as_written() -> None:
    keys = at("on: 1\n1: 2\ntrue: 3\n'<<': 4\n").plain()
    assert keys == {"on": 1, "1": 2, "true": 3, "<<": 4}


@pytest.mark.parametrize(
    ("text", "path", "expected", "length"),
    [
        ("a: b\n", ("a",), "1:4", 1),
        ("a:\n  - xyz\n", ("a", 0), "2:5", 3),
        ("é: ünï # x\n", ("é",), "1:4", 3),
        ('a: "quoted"\n', ("a",), "1:5", 6),
        ("a: {b: 'c'}\n", ("a", "b"), "1:9", 1),
        ("a: |\n  one\n  two\n", ("a",), "2:3", 3),
        ("a:\n  b: |2\n      one\n", ("a", "b"), "3:5", 5),
        ("a: |\n\n    one\n", ("a",), "2:5", 1),
        ("a: >-\n  one\n  two\n", ("a",), "2:3", 7),
        ("a: one\n  two\n", ("a",), "1:4", 1),
        ("\ufeffa: b\n", ("a",), "1:4", 1),
        ("a: b\r\nc: d\r\n", ("c",), "2:4", 1),
        ("a:\n", ("a",), "1:3", 1),
    ],
)
def test_a_value_stands_at_its_first_character(
    text: str, path: tuple[str | int, ...], expected: str, length: int
) -> None:
    node = at(text, *path)
    assert (place(node), node.length) == (expected, length)


def test_a_line_of_a_block_keeps_its_line_and_column() -> None:
    text = "steps:\n  - run: |\n      first\n        second {{ x }}\n"
    node = at(text, "steps", 0, "run")
    lines = str(node.value).split("\n")
    row = node.position.line - 1 + 1
    column = node.position.column - 1 + lines[1].index("{{")
    assert text.split("\n")[row][column:].startswith("{{ x }}")


def test_keys_know_where_they_stand() -> None:
    key = at("a: 1\nlonger: 2\n").keys["longer"]
    assert (place(key), key.length) == ("2:1", 6)


def test_an_alias_repeats_its_anchor() -> None:
    assert at("a: &x {b: [1, 2]}\nc: *x\n").plain() == {"a": {"b": [1, 2]}, "c": {"b": [1, 2]}}


def test_bytes_are_read_as_utf_8(tmp_path) -> None:
    path = tmp_path / "plan.yaml"
    path.write_bytes("\ufeffa: ü\n".encode())
    node = read_file(path)
    assert node.plain() == {"a": "ü"}
    assert node.position.file == str(path)


@pytest.mark.parametrize(
    ("text", "code", "where"),
    [
        ("", "empty-file", "1:1"),
        ("# only a comment\n", "empty-file", "1:1"),
        ("---\n...\n", "empty-file", "1:1"),
        ("a\n---\nb\n", "many-documents", "2:1"),
        (b"a: 1\nb: \xc3\xbc\xff\n", "not-utf8", "2:5"),
        ("a: 1\nb: x\x07y\n", "control-character", "2:5"),
        ("a: \ud800\n", "control-character", "1:4"),
        ("a: [1, 2\nb: 3\n", "yaml-syntax", "2:2"),
        ("a: [1, 2\n", "yaml-syntax", "1:4"),
        ("a: 'x\n", "yaml-syntax", "1:4"),
        ("a:\n\tb: c\n", "yaml-syntax", "2:1"),
        ("a: b: c\n", "yaml-syntax", "1:5"),
        ("- @x\n", "yaml-syntax", "1:3"),
        ("a: b\n c\nd\n", "yaml-syntax", "3:1"),
        ("%YAML 3.0\n---\na\n", "yaml-syntax", "1:1"),
        ("!%ff a\n", "yaml-syntax", "1:2"),
        ("a: .inf\n", "not-finite", "1:4"),
        ("a: -.INF\n", "not-finite", "1:4"),
        ("a: .nan\n", "not-finite", "1:4"),
        ("a: 1e999\n", "not-finite", "1:4"),
        ("a: 18446744073709551616\n", "huge-integer", "1:4"),
        ("a: *b\n", "unknown-alias", "1:4"),
        ("a: &a [*a]\n", "recursive-alias", "1:8"),
        ("[a]: b\n", "bad-key", "1:1"),
        ("? \n: b\n", "bad-key", "1:2"),
        ("a: !!int x\n", "bad-value", "1:4"),
        ("a: !!set {x}\n", "unknown-tag", "1:4"),
    ],
)
def test_what_is_not_plain_yaml_is_refused_where_it_stands(
    text: str | bytes, code: str, where: str
) -> None:
    found = problem(text)
    assert (found.code, place(found)) == (code, where)


def test_syntax_faults_are_told_in_words() -> None:
    assert "only spaces" in problem("a:\n\tb: c\n").message
    assert "quote the text" in problem("a: b: c\n").message
    assert "put quotes around it" in problem("- @x\n").message
    for text in ("a: [x | attr('b','c') | list]\n", "a: {b: x['c'] == 'd', e: 1}\n"):
        assert "put quotes around an expression" in problem(text).message


def test_every_fault_of_a_file_is_reported_at_once() -> None:
    found = problems("a: 1\na: 2\n<<: {b: 1}\nc: !x 1\nd: .nan\ne: [\n")
    assert [p.code for p in found] == [
        "duplicate-key",
        "merge-key",
        "unknown-tag",
        "not-finite",
        "yaml-syntax",
    ]


def test_a_duplicate_key_names_the_line_of_the_first() -> None:
    found = problem("a: 1\nb: 2\na: 3\n")
    assert (found.code, place(found)) == ("duplicate-key", "3:1")
    assert "line 1" in found.message


@pytest.mark.parametrize("name", ["missing.yaml", ".", "a\0b"])
def test_a_file_that_cannot_be_read_is_an_error_that_names_it(tmp_path, name: str) -> None:
    with pytest.raises(PlanError) as caught:
        read_file(tmp_path / name)
    (found,) = caught.value.problems
    assert found.code == "unreadable-file"
    assert str(tmp_path) in str(found.position)


def aliases(prefix: str) -> str:
    """Lists of nine aliases each: 9**20 values if they were expanded."""
    names = [f"a{level}" for level in range(21)]
    lines = [f"{names[0]}: &{names[0]} {prefix}"]
    for below, name in pairwise(names):
        lines.append(f"{name}: &{name} [{', '.join([f'*{below}'] * 9)}]")
    return "\n".join(lines) + "\n"


def merges() -> str:
    lines = ["m0: &m0 {k: v}"]
    lines += [f"m{n}: &m{n} {{<<: [{', '.join([f'*m{n - 1}'] * 9)}]}}" for n in range(1, 21)]
    return "\n".join(lines) + "\n"


BOMBS: dict[str, tuple[str | bytes, str]] = {
    "alias": (aliases("[x, x]"), "too-many-nodes"),
    "merge": (merges(), "merge-key"),
    "depth": ("[" * 500_000, "too-deep"),
    "depth that the parser allows": ("[" * 900 + "]" * 900, "too-deep"),
    "depth of mappings": ("{" * 5_000, "too-deep"),
    "depth of blocks": ("- " * 5_000 + "x", "too-deep"),
    "size": ("a: " + "x" * MAX_BYTES, "too-big"),
    "tag": ('a: !!python/object/apply:os.system ["true"]\n', "unknown-tag"),
    "duplicate key": ("".join("k: v\n" for _ in range(1_000)), "duplicate-key"),
    "NUL": (b"a: b\0c\n", "nul-byte"),
    "huge integer": ("a: " + "9" * 1_000_000, "huge-integer"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused(name: str) -> None:
    text, code = BOMBS[name]
    started = time.perf_counter()
    found = problems(text)
    print(f"{name}: {1000 * (time.perf_counter() - started):.1f} ms")
    assert code in {p.code for p in found}
    assert all(p.position for p in found)


def test_a_bomb_takes_no_longer_than_an_honest_file_of_its_size_limit() -> None:
    """A ratio, since machines differ: the largest honest file is the measure."""
    honest = "a:\n" + "".join(f"  - {n}\n" for n in range(MAX_NODES - 10))

    def seconds(text: str | bytes) -> float:
        started = time.perf_counter()
        with pytest.raises(PlanError):
            read_source(text, "plan.yaml")
        return time.perf_counter() - started

    measure = seconds(honest + "b: .nan\n")
    assert max(min(seconds(text) for _ in range(3)) for text, _ in BOMBS.values()) < measure


def test_a_nul_by_an_escape_is_refused_too() -> None:
    assert problem('a: "x\\0y"\n').code == "nul-byte"


def test_depth_counts_what_an_alias_adds() -> None:
    inner = "[" * 30 + "]" * 30
    outer = "[" * 20 + "*a" + "]" * 20
    assert problem(f"a: &a {inner}\nb: {outer}\n").code == "too-deep"
    allowed = "[" * (MAX_DEPTH - 1)
    assert read_source(f"a: {allowed}{']' * (MAX_DEPTH - 1)}\n", "f").plain()


def test_an_alias_counts_as_all_that_it_repeats() -> None:
    many = ", ".join(["x"] * 1_000)
    repeated = "\n".join(f"k{n}: *a" for n in range(99))
    assert read_source(f"a: &a [{many}]\n{repeated[: -len('k98: *a')]}", "f").plain()
    assert problem(f"a: &a [{many}]\n{repeated}\n").code == "too-many-nodes"
