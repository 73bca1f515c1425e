"""Values that JSON, UTF-8 or msgpack has no form for: kept and the same later, or a clear error."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import AIMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Interrupt

import fractale
import odd_tools
from fractale.cli import run_command
from fractale.errors import InputError, StoreError, ToolError, TransportError
from fractale.mcp import McpToolbox
from fractale.plain import plain, readable, to_json
from fractale.settings import ServerSettings
from fractale.store.outputs import FileOutputs, MemoryOutputs
from fractale.store.serializer import StrictSerializer
from fractale.store.sqlite_saver import open_sqlite
from fractale.testing import ModelServer, Reply
from fractale.tools.files import write_text_file

PLAN = """
name: odd
inputs: {which: text}
steps:
  - {name: make, tool: give, inputs: {which: "{{ inputs.which }}"}}
  - {name: later, tool: echo, approve: always, inputs: {value: "{{ steps.make.outputs }}"}}
outputs: {value: "{{ steps.later.outputs.value }}"}
"""
ECHO = """
name: echo
inputs: {value: {required: true TYPE}}
steps: [{name: say, tool: echo, inputs: {value: "{{ inputs.value }}"}}]
outputs: {value: "{{ steps.say.outputs.value }}"}
"""
KEPT: dict[str, Any] = {
    "over 64 bits": {"x": 2**70},
    "under 64 bits": {"x": -(2**63) - 1},
    "many digits": {"x": [10**1200]},
    "JSON over 64 bits": {"x": 2**70},
    "a byte of a file name": {"files": ["run-\udcff.log"]},
    "text with half a pair": {"content": "a\ud83db"},
    "not a number": {"x": "NaN", "y": ["Infinity", "-Infinity"]},
    "JSON that is not a number": {"x": "NaN", "y": "Infinity"},
}
REFUSED = {
    "too many digits": "at most 4096 fit",
    "a key that is no text": "a key of the answer is not Unicode text",
}


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    registry = {"tools": [{"path": f"odd_tools.{n}"} for n in ("give", "echo", "interrupted")]}
    (tmp_path / "r.yaml").write_text(json.dumps(registry))
    (tmp_path / "p.yaml").write_text(PLAN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("FRACTALE_STATE_DIR", str(tmp_path / "state"))
    return tmp_path


def strict(text: str | bytes) -> Any:
    """JSON as every reader takes it: without Python's `NaN`."""

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    return json.loads(text, parse_constant=refuse)


def command(capsys, *words: str) -> tuple[int, dict[str, Any], str]:
    """A command's exit code, the last event that it printed, and what it said to people."""
    code = run_command([*words])
    said = capsys.readouterr()
    events = [strict(line) for line in said.out.splitlines()]
    return code, events[-1] if events else {}, said.err


@pytest.mark.parametrize("which", KEPT)
def test_an_odd_value_is_the_same_at_once_and_after_a_resume(project, capsys, which):
    run = ("run", "p.yaml", "-r", "r.yaml", "-i", f"which={which}", "--json")
    code, end, _ = command(capsys, *run, "--yes")
    assert (code, end["outputs"]) == (0, {"value": KEPT[which]})
    code, end, _ = command(capsys, *run, "--run-id", "again")
    assert (code, end["status"]) == (4, "waiting")
    code, end, _ = command(capsys, "resume", "again", "--answer", "later=yes", "--json")
    assert (code, end["outputs"]) == (0, {"value": KEPT[which]})
    for name in ("events.jsonl", "journal.jsonl"):
        for line in (project / "state" / "runs" / "again" / name).read_bytes().splitlines():
            strict(line.decode())
    for words in (("show", "again", "--json"), ("show", "again"), ("replay", "again", "--json")):
        assert run_command([*words]) == 0, words
    capsys.readouterr()


@pytest.mark.parametrize("which", REFUSED)
def test_an_answer_that_cannot_be_kept_fails_its_step(project, capsys, which):
    code, end, _ = command(
        capsys, "run", "p.yaml", "-r", "r.yaml", "-i", f"which={which}", "--yes", "--json"
    )
    assert (code, end["status"]) == (1, "failed")
    assert REFUSED[which] in end["error"]


@pytest.mark.parametrize("which", KEPT)
@pytest.mark.parametrize("checkpointer", [None, InMemorySaver])
def test_from_python_odd_values_are_kept_too(settings, which, checkpointer):
    saver = checkpointer and checkpointer()  # LangGraph's own, with its own serializer
    result = fractale.run(
        PLAN,
        {"which": which},
        tools=[odd_tools.give, odd_tools.echo],
        settings=settings,
        checkpointer=saver,
        yes=True,
    )
    assert (result.error, result.outputs) == (None, {"value": KEPT[which]})


INTEGER = 123456789012345678901234567890


@pytest.mark.parametrize(
    ("kind", "given", "kept"),
    [
        ("integer", str(INTEGER), INTEGER),
        ("string", os.fsdecode(b"x\xffy"), os.fsdecode(b"x\xffy")),
        ("array", '["\\ud83d"]', ["\ud83d"]),
        ("integer", "4.0", 4),
        ("number", "4.0", 4.0),
    ],
)
def test_an_odd_input_is_kept(project, capsys, kind, given, kept):
    (project / "e.yaml").write_text(ECHO.replace("TYPE", f", type: {kind}"))
    (project / "i.json").write_text(json.dumps({"value": kept}))
    run = ("run", "e.yaml", "-r", "r.yaml", "--json")
    for words in (("-i", f"value={given}"), ("--inputs", "i.json")):
        code, end, _ = command(capsys, *run, *words)
        assert (code, end["outputs"]) == (0, {"value": kept})
        assert type(end["outputs"]["value"]) is type(kept)
    assert run_command(["run", "e.yaml", "-i", f"value={given}", "--dry-run"]) == 0
    assert run_command(["run", "e.yaml", "-i", f"value={given}", "--dry-run", "--json"]) == 0


@pytest.mark.parametrize(
    ("kind", "given", "file", "words"),
    [
        ("number", "nan", '{"value": .nan}', "not finite"),
        ("number", "NaN", '{"value": NaN}', "must be of type number"),
        ("number", "1e999", '{"value": 1e999}', "not finite"),
        ("array", "[1, NaN]", '{"value": [1, .inf]}', "not finite"),
        ("array", "a.sh,b.sh", '{"value": "a.sh,b.sh"}', """-i value='["a.sh", "b.sh"]'"""),
        ("object", "nodes=4", '{"value": "nodes=4"}', """-i value='{"nodes": 4}'"""),
    ],
)
def test_an_input_that_cannot_be_kept_is_refused(project, capsys, kind, given, file, words):
    (project / "e.yaml").write_text(ECHO.replace("TYPE", f", type: {kind}"))
    (project / "i.json").write_text(file)
    for option in (("-i", f"value={given}"), ("--inputs", "i.json")):
        code, _, said = command(capsys, "run", "e.yaml", "-r", "r.yaml", *option)
        assert code == 2
        assert "`value`" in said
    assert words in said or words in "must be of type number not finite"


@pytest.mark.parametrize("value", [float("nan"), [float("-inf")], [10**5000]])
def test_from_python_an_input_that_cannot_be_kept_is_refused(settings, value):
    with pytest.raises(InputError, match="`value` contains"):
        fractale.run(
            ECHO.replace("TYPE", ""), {"value": value}, tools=[odd_tools.echo], settings=settings
        )


def test_a_file_is_written_under_its_name_and_with_its_bytes(tmp_path):
    path = os.fsencode(tmp_path) + b"/caf\xe9.txt"
    write_text_file(os.fsdecode(path), os.fsdecode(b"a\xe9\n"))
    with open(path, "rb") as file:  # noqa: PTH123 - a name in bytes
        assert file.read() == b"a\xe9\n"
    with pytest.raises(ValueError, match="half a character"):
        write_text_file(os.fsdecode(path), "\ud83d")
    assert os.stat(path).st_size == 3, "what was there is left alone"  # noqa: PTH116


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ("rules: {success: [x < 1]}", "cannot say which is greater"),
        ("rules: {failure: [x > 1]}", "cannot say which is greater"),
        ("output_schema: {type: object, properties: {x: {type: number}}}", "'NaN' is not of type"),
    ],
)
def test_what_is_not_a_number_fits_no_rule_and_no_schema_of_numbers(settings, more, words):
    plan = f"name: p\nsteps: [{{name: a, tool: give, inputs: {{which: not a number}}, {more}}}]\n"
    result = fractale.run(plan, tools=[odd_tools.give], settings=settings)
    assert result.status == "failed"
    assert words in (result.error or "")


@pytest.mark.parametrize("tools", ["allow_tools: false", "tools: [give]"])
@pytest.mark.parametrize("step", ["type: agent", "type: agent, judge: true"])
def test_a_model_is_sent_text_that_is_not_unicode_as_what_can_be_read(settings, tools, step):
    said = (
        [Reply(tool_calls=[("give", {"which": "text with half a pair"})])]
        if "give" in tools
        else []
    )
    said.append(Reply(text="fine"))
    said += [Reply(data={"reason": "so", "success": True})] if "judge" in step else []
    with ModelServer(lambda _request: said.pop(0)) as server:
        result = fractale.run(
            "name: p\ninputs: {file: x}\n"
            f"steps: [{{name: a, {step}, {tools}, instruction: 'see {{{{ inputs.file }}}}'}}]\n",
            {"file": "run-\udcff.log"},
            tools=[odd_tools.give],
            model="openai:m",
            settings=replace(
                settings, openai_base_url=server.openai_url, environment={"OPENAI_API_KEY": "key"}
            ),
            yes=True,
        )
        told = to_json([request.body["messages"] for request in server.requests])
    assert (result.error, result.status) == (None, "success")
    assert "see run-\ufffd.log" in told
    assert ("a\ufffdb" in told) == ("give" in tools)


async def test_a_server_is_not_sent_text_that_is_not_unicode():
    script = str(Path(__file__).parents[1] / "support" / "servers" / "tools_server.py")
    server = ServerSettings(name="s", transport="stdio", command=sys.executable, args=(script,))
    async with McpToolbox([server]) as toolbox:
        with pytest.raises(ToolError, match="not UTF-8") as caught:
            await toolbox.call_tool("echo", {"value": "run-\udcff.log"})
        assert not isinstance(caught.value, TransportError), "it was not sent: there is no doubt"
        assert (await toolbox.call_tool("echo", {"value": "é"})).text == "é"


def test_a_template_may_give_an_integer_over_64_bits(settings):
    plan = "name: p\nsteps: [{name: a, tool: echo, inputs: {value: '{{ 2 ** 70 }}'}}]\n"
    plan += "outputs: {value: '{{ steps.a.outputs.value }}'}\n"
    result = fractale.run(plan, tools=[odd_tools.echo], settings=settings, keep=True)
    assert result.outputs == {"value": 2**70}


def test_a_tool_that_raises_keyboard_interrupt_has_failed(project, capsys):
    (project / "k.yaml").write_text("name: k\nsteps: [{name: a, tool: interrupted}]\n")
    code, _, said = command(capsys, "run", "k.yaml", "-r", "r.yaml")
    assert code == 1
    assert "the function raised KeyboardInterrupt" in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    "value",
    [
        {"x": [2**70, -(2**63) - 1, 2**64 - 1, 1.5, None, True, "é", b"x"]},
        AIMessage("", tool_calls=[{"name": "t", "args": {"hash": 2**70}, "id": "1"}]),
        [Interrupt({"kind": "approval", "arguments": {"n": 2**70}}, id="i")],
        {"messages": [AIMessage("x", tool_calls=[])], "n": [2**70, {1, 2}]},
        {"\udcff": [{"a": "\ud83d"}], "b": 1},
        [AIMessage("a\ud83d"), Interrupt({"text": "\udcff"}, id="i")],
    ],
)
def test_a_checkpoint_keeps_what_msgpack_has_no_form_for(value):
    serializer = StrictSerializer()
    assert serializer.loads_typed(serializer.dumps_typed(value)) == value


async def test_a_value_that_no_checkpoint_can_keep_is_no_damage_of_the_file(tmp_path):
    async with open_sqlite(tmp_path / "c.sqlite") as saver:
        with pytest.raises(StoreError, match="cannot be kept") as caught:
            await saver.aput_writes(
                {"configurable": {"thread_id": "t", "checkpoint_ns": "", "checkpoint_id": "1"}},
                [("x", object())],
                "task",
            )
    assert "damaged" not in f"{caught.value} {caught.value.hint}"


@pytest.mark.parametrize("value", [{"x": 2**70}, {"x": "\udcff"}, {"\ud83d": 1}, "x" * 2000])
def test_what_a_checkpoint_cannot_keep_is_kept_beside_it(tmp_path, value):
    for outputs in (MemoryOutputs(), FileOutputs(tmp_path)):
        kept = outputs.put(value)
        assert kept != value
        assert outputs.get(kept) == value


@pytest.mark.parametrize("value", [{"x": 2**63}, "é", {"at": 1795990298462648900}, [1.5, None]])
def test_what_a_checkpoint_can_keep_stands_in_it(value):
    assert MemoryOutputs().put(value) is value


def test_json_text_is_json_for_every_reader():
    value = {"a\udcff": ["\\\udcff", float("nan"), 2**70, "😀"]}
    assert strict(to_json(value).encode()) == {"a\udcff": ["\\\udcff", "NaN", 2**70, "😀"]}
    assert readable("a\ud83db\udcff😀") == "a\ufffdb\ufffd😀"
    same = {"x": [1, {"y": "z"}]}
    assert plain(same) is same
