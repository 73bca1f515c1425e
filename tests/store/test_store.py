"""What is kept on disk: outputs by their content, checkpoints that fail closed."""

from __future__ import annotations

import sqlite3
import stat

import ormsgpack
import pytest
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.types import Interrupt, Send

from fractale.errors import StoreError
from fractale.store.outputs import (
    INLINE_LIMIT,
    FileOutputs,
    InlineOutputs,
    MemoryOutputs,
    is_reference,
    resolved,
)
from fractale.store.run_record import RunRecords
from fractale.store.serializer import StrictSerializer
from fractale.store.sqlite_saver import open_sqlite

LARGE = {"text": "x" * (2 * INLINE_LIMIT)}


@pytest.fixture(params=["memory", "files"])
def store(request, tmp_path):
    return MemoryOutputs() if request.param == "memory" else FileOutputs(tmp_path / "outputs")


def test_a_small_value_stays_as_it_is(store):
    assert store.put({"a": 1}) == {"a": 1}


def test_a_large_value_becomes_a_reference_that_gives_it_back(store):
    reference = store.put(LARGE)
    assert is_reference(reference)
    assert reference["bytes"] > INLINE_LIMIT
    assert store.get(reference) == LARGE


def test_the_same_value_is_kept_once(tmp_path):
    store = FileOutputs(tmp_path)
    assert store.put(LARGE) == store.put(dict(LARGE))
    assert len([p for p in tmp_path.rglob("*") if p.is_file()]) == 1


def test_only_the_owner_can_read_what_is_kept(tmp_path):
    store = FileOutputs(tmp_path / "outputs")
    path = store.path(store.put(LARGE))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


@pytest.mark.parametrize(
    "value",
    [
        LARGE,
        {"big": 2**70, "cut": "x\udcff"},
        {"$json": "[1]"},
        {"deep": [{"$json": "no JSON"}]},
        {"$ref": "sha256:0", "bytes": 1},
        [1.5, None, "text"],
    ],
)
def test_a_value_in_the_state_itself_survives_every_serializer(value):
    kept = InlineOutputs().put(value)
    serde = StrictSerializer()
    assert InlineOutputs().get(serde.loads_typed(serde.dumps_typed(kept))) == value


def test_references_anywhere_in_a_value_are_resolved(tmp_path):
    files, inline = FileOutputs(tmp_path), InlineOutputs()
    state = {"steps": {"read": {"outputs": files.put(LARGE), "inputs": [1, "two"]}}}
    assert resolved(state, files) == {"steps": {"read": {"outputs": LARGE, "inputs": [1, "two"]}}}
    huge = {"n": 2**70}
    assert resolved({"outputs": inline.put(huge)}, inline) == {"outputs": huge}


def test_a_damaged_value_is_an_error_not_another_value(tmp_path):
    store = FileOutputs(tmp_path)
    reference = store.put(LARGE)
    path = store.path(reference)
    path.write_bytes(path.read_bytes().replace(b"x", b"y", 1))
    with pytest.raises(StoreError, match="changed or damaged"):
        store.get(reference)


def test_a_missing_value_is_an_error(tmp_path):
    store = FileOutputs(tmp_path)
    reference = store.put(LARGE)
    store.path(reference).unlink()
    with pytest.raises(StoreError, match="missing"):
        store.get(reference)


def test_a_folder_that_cannot_be_written_is_an_error_that_says_what_to_do(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    with pytest.raises(StoreError, match="cannot keep") as caught:
        FileOutputs(blocked / "outputs").put(LARGE)
    assert "resumed" in (caught.value.hint or "")


def test_what_langgraph_itself_stores_is_read_back():
    serializer = StrictSerializer()
    for value in ({"a": [1, "x", None]}, Send("node", {"x": 1}), Interrupt({"q": 1}, id="i")):
        assert serializer.loads_typed(serializer.dumps_typed(value)) == value


def constructor(module: str, name: str, argument: object) -> tuple[str, bytes]:
    """Bytes as LangGraph's serializer writes an object that is to be constructed."""
    payload = ormsgpack.packb((module, name, argument))
    return "msgpack", ormsgpack.packb(ormsgpack.Ext(0, payload))


GADGETS = {
    "os.system": lambda mark: constructor("os", "system", f"touch {mark}"),
    "subprocess": lambda mark: constructor("subprocess", "getoutput", f"touch {mark}"),
    "pickle": lambda mark: ("pickle", b"cos\nsystem\n(S'touch " + str(mark).encode() + b"'\ntR."),
    "constructor": lambda mark: (
        "json",
        b'{"lc": 2, "type": "constructor", "id": ["os", "system"], "args": ["touch %s"]}'
        % str(mark).encode(),
    ),
    "missing class": lambda mark: constructor("fractale.nowhere", "Nothing", "x"),
}


@pytest.mark.parametrize("gadget", GADGETS)
def test_a_crafted_checkpoint_is_refused_and_runs_nothing(gadget, tmp_path):
    mark = tmp_path / "mark"
    with pytest.raises(StoreError):
        StrictSerializer().loads_typed(GADGETS[gadget](mark))
    assert not mark.exists()


def test_the_gadgets_are_real(tmp_path):
    # Without the strict serializer the first of them runs: the test above can fail.
    mark = tmp_path / "mark"
    JsonPlusSerializer(allowed_msgpack_modules=True).loads_typed(GADGETS["os.system"](mark))
    assert mark.exists()


async def test_checkpoints_are_private_and_made_with_their_folder(tmp_path):
    path = tmp_path / "state" / "checkpoints.sqlite"
    async with open_sqlite(path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


async def test_a_file_that_is_no_database_is_an_error_that_says_what_to_do(tmp_path):
    path = tmp_path / "checkpoints.sqlite"
    path.write_bytes(b"this is not a database, whatever its name says" * 100)
    with pytest.raises(StoreError, match="cannot use the checkpoints") as caught:
        async with open_sqlite(path):
            pass
    assert "restore it from a copy" in (caught.value.hint or "")


async def test_a_tampered_database_is_refused_when_a_run_is_resumed(tmp_path, run_plan, settings):
    import fractale
    from fractale.runs import Runs
    from fractale.testing import FakeToolServer

    plan = tmp_path / "plan.yaml"
    plan.write_text("name: p\nsteps: [{name: s, tool: t, approve: always}]\n")
    tools = FakeToolServer()
    tools.answer("t", {})
    seen = await run_plan(plan, tools=tools, keep=True)
    assert seen.status == "waiting"
    mark = tmp_path / "mark"
    kind, data = GADGETS["os.system"](mark)
    with sqlite3.connect(
        RunRecords(settings.state_dir).at(seen.result.run).checkpoints
    ) as database:
        database.execute("UPDATE checkpoints SET type = ?, checkpoint = ?", (kind, data))
    with pytest.raises(fractale.FractaleError, match="refused type"):
        await Runs(settings, tools).resume(seen.result.run)
    assert not mark.exists()
