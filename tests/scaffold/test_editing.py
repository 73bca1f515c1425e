"""A list in a YAML file gets an item, and every other line stays as it was."""

from __future__ import annotations

import difflib

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from fractale.errors import UsageError
from fractale.scaffold.editing import add_item, quoted

PLAN = """\
# A plan.
name: p     # its name

steps:
  # The first one.
  - name: a
    script: |
      echo a
      # not a comment: a line of the script

  # The second one.
  - name: b   # beside it
    script: echo b

# What comes out.
outputs: {x: 1}
"""
ITEM = ["- name: new", "  script: |", "    echo new"]


def added(old: str, new: str) -> list[str]:
    """The lines that were added; fails if a line was removed or changed."""
    lines = [*difflib.ndiff(old.splitlines(), new.splitlines())]
    assert not [line for line in lines if line.startswith("-")]
    return [line[2:] for line in lines if line.startswith("+ ")]


def names(text: str) -> list[str]:
    return [each["name"] for each in yaml.safe_load(text)["steps"]]


@pytest.mark.parametrize(
    ("after", "order"),
    [(None, ["a", "b", "new"]), ("a", ["a", "new", "b"]), ("b", ["a", "b", "new"])],
)
def test_an_item_is_added_after_another_and_every_other_line_stays(after, order):
    text = add_item(PLAN, "steps", ITEM, after=after)
    assert [line for line in added(PLAN, text) if line] == ["  " + line for line in ITEM]
    assert names(text) == order
    assert yaml.safe_load(text)["steps"][0]["script"].endswith("a line of the script\n")


def test_comments_stay_with_what_they_are_above():
    lines = add_item(PLAN, "steps", ITEM, after="a").splitlines()
    assert lines[lines.index("  # The second one.") + 1] == "  - name: b   # beside it"
    lines = add_item(PLAN, "steps", ITEM).splitlines()
    assert lines[lines.index("# What comes out.") + 1] == "outputs: {x: 1}"


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_lists_without_indentation_and_texts_without_a_last_line_break(ending):
    old = ending.join(["steps:", "- name: a", "-", "  name: b"])
    text = add_item(old, "steps", ITEM, after="a")
    assert names(text) == ["a", "new", "b"]
    assert names(add_item(old, "steps", ITEM)) == ["a", "b", "new"]
    assert text.count(ending) == text.count("\n")


def test_a_missing_list_is_added_before_a_key_or_at_the_end():
    text = add_item(PLAN, "agents", ["- name: x"], before_key="steps")
    assert [*yaml.safe_load(text)] == ["name", "agents", "steps", "outputs"]
    added(PLAN, text)
    assert yaml.safe_load(add_item("", "tools", ["- path: a.b"])) == {"tools": [{"path": "a.b"}]}


@pytest.mark.parametrize("text", ["steps: [{name: a}]\n", "steps: {a: 1}\n", "steps:\n"])
def test_another_form_of_a_list_is_an_error_that_says_how_to_write_it(text):
    with pytest.raises(UsageError, match="not a list with one item per line") as caught:
        add_item(text, "steps", ITEM)
    assert "one item per line" in (caught.value.hint or "")


def test_an_unknown_item_is_an_error_with_the_nearest_name():
    with pytest.raises(UsageError, match="no step `aa`") as caught:
        add_item(PLAN, "steps", ITEM, after="aa")
    assert caught.value.hint == "did you mean `a`?"


@given(st.text(max_size=20))
def test_a_quoted_text_is_read_as_itself(text):
    try:
        read = yaml.safe_load(quoted(text))
    except yaml.reader.ReaderError:  # YAML has no such character
        return
    assert read == text


BLOCKS = st.lists(
    st.sampled_from(
        [
            "  - name: n{}\n    tool: t\n",
            "  - name: n{}\n    script: |\n      a\n      # b\n\n",
            "  # a comment\n  - {{name: n{}, tool: t}}\n",
            "  -\n    name: n{}\n    # inside\n    tool: t\n\n\n",
        ]
    ),
    min_size=1,
    max_size=6,
)


@given(BLOCKS, st.integers(0, 5), st.sampled_from(["", "# end\n", "outputs: {}\n", "...\n"]))
def test_an_item_goes_into_any_layout(blocks, place, rest):
    old = "steps:\n" + "".join(b.format(i) for i, b in enumerate(blocks)) + rest
    place %= len(blocks)
    text = add_item(old, "steps", ITEM, after=f"n{place}")
    added(old, text)
    before, after = yaml.safe_load(old), yaml.safe_load(text)
    assert after["steps"].pop(place + 1) == {"name": "new", "script": "echo new\n"}
    # A text that ends in empty lines keeps them unless the new item is after it.
    assert after == before
