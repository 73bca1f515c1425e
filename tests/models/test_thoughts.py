"""Thoughts apart from answers, calls that are only text, and texts that are no valid Unicode."""

from __future__ import annotations

import pytest
from langchain_core.messages import AIMessage, AIMessageChunk

from fractale.models.text_calls import called_in_text
from fractale.models.thoughts import MARKS, AnswerStream, without_thoughts
from fractale.models.turn import clean, joined
from fractale.plain import readable_values

ANSWER = '{"nodes": 4}'


@pytest.mark.parametrize("marks", MARKS)
@pytest.mark.parametrize("start", ["", "\n  "])
def test_marked_thoughts_at_the_start_are_taken_off(marks, start):
    opened, closed = marks
    parted = without_thoughts(f"{start}{opened}\nPerhaps 99.\n{closed}\n\n{ANSWER}")
    assert (parted.answer, parted.thoughts) == (ANSWER, "Perhaps 99.")
    assert without_thoughts(f"{start}{opened.upper()}Perhaps 99.") == ("", "Perhaps 99.", False)
    lone = without_thoughts(f"Perhaps 99.\n{closed}\n{ANSWER}")
    assert lone == (ANSWER, "Perhaps 99.", True)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<think>a</think><think>b</think>Four.", "Four."),
        ("<think>a</think> and so on </think>Four.", "Four."),
        ("<think></think>\n\nFour.", "Four."),
        ("<think>a</think>\n<answer>Four.</answer>", "Four."),
        ("<think>a</think>\n<response>Four.</response>", "Four."),
        ("<|channel|>analysis<|message|>a<|end|>", ""),
        ("<|channel|>analysis<|message|>a", ""),
        ("<|start|>assistant<|channel|>final<|message|>Four.<|return|>", "Four."),
        (
            "<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>commentary"
            "<|message|>I look.<|end|><|start|>assistant<|channel|>final <|constrain|>json"
            "<|message|>Four.",
            "Four.",
        ),
        ("analysisThey ask for nodes.assistantfinalFour.", "Four."),
        ("Well.\n<think>Or 5?</think>\nFour.", "Well.\n\nFour."),
        ("<think>a</think>Well.\n [THINK]5?[/THINK]Four.\n<think>b</think>", "Well.\nFour."),
        ("<think>\u0130\u0130\u0130</think>Four.", "Four."),  # longer in lower case
    ],
)
def test_thoughts_come_in_many_forms(text, answer):
    assert without_thoughts(text).answer == answer


@pytest.mark.parametrize(
    "text",
    [
        "Four.",
        "",
        "Models write `</think>` after their thoughts.",
        'The mark is "</think>".',
        '{"end": "</think>"}',
        "Use this:\n```python\ntext.split('x')\n</think>\n```\nand no more.",
        "Parse <think>a</think> like this.",
        "```\n<think>a</think>\n```\nis what it sends.",
        "analysis of the log: 4 nodes",
        "<answer>Four.</answer>",
        "<thin ice>",
    ],
)
def test_an_answer_that_quotes_such_marks_is_whole(text):
    assert without_thoughts(text) == (text, "", False)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Four nodes.", "Four nodes."),
        ("<think>Perhaps 99.</think>\n\nFour nodes.", "Four nodes."),
        ("\n<think>a</think>\n<think>b</think>Four.", "Four."),
        ("<think>Perhaps 99", ""),
        ("<thin ice>", "<thin ice>"),
        ("<", "<"),
        ("[THINK]99[/THINK]Four.", "Four."),
        ("<|channel|>analysis<|message|>99<|end|><|channel|>final<|message|>Four.", "Four."),
    ],
)
@pytest.mark.parametrize("size", [1, 3, 1000])
def test_a_stream_shows_no_thoughts_however_it_is_cut(text, shown, size):
    pieces: list[str] = []
    stream = AnswerStream(pieces.append)
    for start in range(0, len(text), size):
        stream.feed(text[start : start + size])
    stream.end(without_thoughts(text).answer)
    assert "".join(pieces) == shown


def test_an_answer_is_shown_as_it_comes():
    pieces: list[str] = []
    stream = AnswerStream(pieces.append)
    for piece in ("<think>99", "</think>", "Four", " nodes"):
        stream.feed(piece)
    assert pieces == ["Four", " nodes"]


TOOLS = ["look", "beta__quota"]


@pytest.mark.parametrize(
    "text",
    [
        '<tool_call>\n{"name": "look", "arguments": {"where": "/"}}\n</tool_call>',
        'I look.\n<tool_call>{"name": "look", "argum',
        "<tool_call>\n<function=look>\n<parameter=where>/</parameter></function></tool_call>",
        '[TOOL_CALLS][{"name": "look", "arguments": {}}]',
        '[TOOL_CALLS]look{"where": "/"}',
        '<|python_tag|>{"name": "look", "parameters": {}}',
        '<|python_tag|>look.call(where="/")',
        '<function=look>{"where": "/"}</function>',
        '{"name": "look", "arguments": {"where": "/"}}',
        '```json\n{"name": "look", "parameters": {"where": "/"}}\n```',
        '[{"name": "look", "arguments": {}}]',
        'I look first:\n```json\n{"name": "look", "parameters": {"where": "/"}}\n```',
        'I look first.\n\n{"name": "look", "arguments": {"where": "/"}}',
        '{"tool": "look", "args": {}}',
        '{"action": "look", "action_input": {"where": "/"}}',
        '[look(where="/", deep=True)]',
        '{"type": "function", "function": {"name": "look", "arguments": "{}"}}',
        '{"type": "function", "name": "look", "parameters": {}}',
        "<|channel|>commentary to=functions.look <|constrain|>json<|message|>{}<|call|>",
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>look\n```json\n{}\n```",  # noqa: RUF001
        '<minimax:tool_call><invoke name="look"></invoke></minimax:tool_call>',
    ],
)
def test_a_call_in_the_words_of_a_model_is_seen(text):
    assert called_in_text(text, TOOLS) == "look"
    assert called_in_text(text, ["outlook", "look_up"]) == called_in_text(text, [])


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ('<tool_call>\n{"name": "run_shell", "arguments": {}}\n</tool_call>', "run_shell"),
        ("<tool_call>\n<function=run>\n<parameter=x>/</parameter></function></tool_call>", "run"),
        ('I try it.\n<tool_call>{"arguments": {"path": "/a"', "a tool"),
        ('[TOOL_CALLS]run{"where": "/"}', "run"),
        ('<|python_tag|>{"name": "hpc.run", "parameters": {}}', "hpc.run"),
        ("<|channel|>commentary to=functions.run <|constrain|>json<|message|>{}<|call|>", "run"),
        ('<minimax:tool_call><invoke name="run"></invoke></minimax:tool_call>', "run"),
        ("<tool_call> begins a call in the format of Hermes.", None),
        ('The mark is <tool_call>{"name": "run"}</tool_call>, as Hermes has it.', None),
        ('```\n<tool_call>{"name": "run"}</tool_call>\n```', None),
        ('{"name": "run", "arguments": {}}', None),
    ],
)
def test_a_marked_call_of_a_tool_that_is_not_on_offer_is_no_answer_either(text, name):
    assert called_in_text(text, []) == called_in_text(text, TOOLS) == name


@pytest.mark.parametrize(
    "text",
    [
        "I called look and found two files.",
        '{"name": "look", "nodes": 4}',
        '{"name": "anna", "arguments": {}}',
        'The call was {"name": "look", "arguments": {}}.',
        'Hermes writes:\n```\n<tool_call>{"name": "look"}</tool_call>\n```',
        "The tag <tool_call> begins a call.",
        "[outlook(1)]",
        'The files:\n\n{"name": "look", "nodes": 4}',
        "[]",
    ],
)
def test_an_answer_that_is_about_calls_is_an_answer(text):
    assert called_in_text(text, TOOLS) is None


@pytest.mark.parametrize(
    ("value", "mended"),
    [
        ("a\ud83db", "a\ufffdb"),
        ("a\ud83d", "a\ufffd"),
        ("\ude00", "\ufffd"),
        ("\ud83d\ude00", "😀"),
        ({"k\ud83d": ["\ud83d", 1]}, {"k\ufffd": ["\ufffd", 1]}),
    ],
)
def test_lone_surrogates_are_replaced_and_pairs_joined(value, mended):
    assert readable_values(value) == mended


def test_a_message_is_cleaned_in_all_its_parts():
    call = {"name": "look", "args": {"w": "\ud83d"}, "id": None, "type": "tool_call"}
    message = clean(AIMessage("<think>x</think>a\ud83d", tool_calls=[call]))
    assert message.text == "a\ufffd"
    [made] = message.tool_calls
    assert made["args"] == {"w": "\ufffd"}
    assert made["id"]


def test_parts_other_than_text_stay_when_thoughts_are_taken_off():
    parts = [{"type": "other", "x": 1}, {"type": "text", "text": "<think>x</think>Four."}]
    message = clean(AIMessage(parts))  # pyright: ignore[reportArgumentType]
    assert message.text == "Four."
    assert message.content[0] == {"type": "other", "x": 1}


def test_a_message_that_needs_nothing_is_the_same():
    message = AIMessage("Four.")
    assert clean(message) is message


@pytest.mark.parametrize(
    ("counts", "used"),
    [
        ([(12, 1), (12, 2), (12, 4)], (12, 4)),
        ([(12, 4), (12, 4)], (12, 4)),
        ([(12, 1), (0, 2), (0, 1)], (12, 4)),
        ([(12, 0), (0, 4)], (12, 4)),
        ([(12, 4)], (12, 4)),
    ],
)
def test_usage_is_all_so_far_or_a_part_of_its_own(counts, used):
    chunks = [
        AIMessageChunk(
            content="x",
            usage_metadata={"input_tokens": i, "output_tokens": o, "total_tokens": i + o},
        )
        for i, o in counts
    ]
    found = joined(chunks).usage_metadata
    assert found is not None
    assert (found["input_tokens"], found["output_tokens"]) == used
