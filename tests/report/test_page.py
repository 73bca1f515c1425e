"""A run as a page: the data that the templates print. Pages in a browser: tests/looking."""

from __future__ import annotations

import base64
import json
import struct
import zlib
from pathlib import Path

import pytest

from fractale.jobs.logs import read_tail
from fractale.masking import Masker
from fractale.record.history_reader import read_history
from fractale.render.summary import history_verdict
from fractale.report.images import MOST_BYTES, Pictures, type_of
from fractale.report.page import MOST_OPEN, Paging, run_page, visit_detail
from fractale.report.texts import Bounds, cut, entries_of, shown
from fractale.schedulers.folder import JobFolder
from fractale.store.run_record import RunRecords
from fractale.testing import FakeToolServer, ScriptedModel
from recording import Recording, translation

OF_0_2 = Path(__file__).parents[1] / "support/state_0_2/state"


def page_of(run: Recording, **more):
    return run_page(read_history(run.folder), Paging(**more))


def png(width: int = 2, height: int = 2) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        end = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + end

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = zlib.compress(b"".join(b"\0" + b"\7" * 2 for _ in range(2)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


# -- verdict and attempts ------------------------------------------------------------------------


def test_a_page_has_the_words_of_the_verdict(tmp_path):
    run = translation(tmp_path)
    page, verdict = page_of(run), history_verdict(read_history(run.folder), 10_000)
    assert (page.word, page.why, page.mark) == (verdict.words, verdict.why, verdict.mark)
    assert page.next == tuple(x for row in verdict.rows if row.about == "next" for x in row.lines)
    assert page.used == verdict.rows[-1].lines[0] or page.used in str(verdict.rows)


async def test_attempts_have_ids_numbers_and_all_that_is_behind_them(run_plan, settings, tmp_path):
    (tmp_path / "inner.yaml").write_text("name: i\nsteps: [{name: say, tool: say}]\n")
    plan = tmp_path / "plan.yaml"
    plan.write_text(
        "name: all of it\n"
        "inputs: {who: Ada}\n"
        "steps:\n"
        "  - {name: each, tool: say, foreach: [1, 2], inputs: {n: '{{ item }}'}}\n"
        "  - name: chain\n    foreach: [a, b]\n    steps: [{name: one, tool: say}]\n"
        "  - {name: outer, plan: ./inner.yaml}\n"
        "  - {name: think, type: agent, instruction: think}\n"
        "  - {name: check, tool: check, transitions: {failure: check}}\n"
        "  - {name: never, tool: say, when: 'false'}\n"
        "outputs: {text: '{{ steps.think.outputs.content }}'}\n"
    )
    tools = FakeToolServer().answer("say", {"x": 1})
    tools.answer("check", {"returncode": 1, "stderr": "line 4"}, {"returncode": 0})
    seen = await run_plan(plan, tools=tools, model=ScriptedModel(["42"]), keep=True)
    assert seen.status == "success"
    history = read_history(RunRecords(settings.state_dir).find("-1"))
    page = run_page(history, Paging(prefix="p-"))

    visits = {visit.id: visit for visit in page.visits}
    assert next(iter(visits)) == "p-step-each"
    assert {"p-step-check", "p-step-check~2", "p-step-outer/say", "p-step-never"} <= set(visits)
    assert visits["p-step-check"].state == "failure"
    assert visits["p-step-check"].important
    assert visits["p-step-check~2"].nth == "2nd attempt"
    assert visits["p-step-never"].state == "skipped"
    inside = visits["p-step-chain%5B0%5D/one"]
    assert inside.also == ("p-step-chain/one",), "the picture's box leads to the first item's"
    each = visits["p-step-each"].detail
    assert [item.name for item in each.items] == ["item 1", "item 2"]
    assert each.items[1].inputs[0].text == "2"
    assert each.items[1].calls[0].arguments[0].text == "2", "an item has its own calls"
    assert not each.calls
    model = visits["p-step-think"].detail.calls[0]
    assert model.kind == "model"
    assert model.result[0].text == "42"
    assert "line 4" in visits["p-step-check"].why
    assert [(out.label, out.text) for out in page.outputs] == [("text", "42")]
    assert [(given.label, given.text) for given in page.inputs] == [("who", "Ada")]
    assert page.costs[0].columns[0] == "step"
    assert page.costs[0].rows[-1][0] == "together"
    assert page.plan_text is not None
    assert "foreach" in page.plan_text.text
    assert 'href="#p-step-check"' in page.picture
    assert "style=" not in page.picture

    without = run_page(history, Paging(prefix="p-", details=False))
    assert all(visit.detail is None for visit in without.visits)
    check = next(v for v in history.attempts if v.path == "check")
    assert visit_detail(history, check, Paging(prefix="p-")) == visits["p-step-check"].detail


def test_a_killed_run_and_a_damaged_one(tmp_path):
    run = Recording(tmp_path).start("build").enter("build").call("build", end=False)
    page = page_of(run)
    assert (page.word, page.visits[0].state) == ("stopped", "stopped")
    assert page.visits[0].detail.calls[0].about == "outcome unknown"
    assert page.next == ("fractale resume k7f3a",)
    odd = Recording(tmp_path, "odd").start("x")
    odd.enter("each]x]").add("job_state", step="each]x]", handle={"key": "k"}, job="1")
    odd.add("item_started", step="each]x]", index=0, total=1)
    assert page_of(odd).visits[0].detail.jobs


def test_only_the_last_failures_are_open_at_first(tmp_path):
    run = Recording(tmp_path).start("go")
    for attempt in range(1, 31):
        run.visit("go", attempt, outcome="failure", error="no", next="go")
    page = page_of(run.end("failed"))
    assert sum(visit.important for visit in page.visits) == MOST_OPEN
    assert page.visits[-1].important


def test_questions_and_drafts(tmp_path):
    first = "name: p\nsteps:\n- name: one\n  tool: look\n"
    second = first + "- name: two\n  tool: check\n"
    asked = {"kind": "review", "step": "made", "plan": first, "round": 1, "id": "a1"}
    again = {**asked, "plan": second, "round": 2, "id": "a2"}
    run = Recording(tmp_path).start("made").enter("made", type="plan")
    run.add("waiting", step="made", question=asked)
    run.add("answered", step="made", question=asked, answer={"feedback": "Check"}, by="person")
    run.add("answered", step="made", question=again, answer="accept", by="person", via="fractale web", user="anna")  # fmt: skip  # noqa: E501
    run.add("waiting", step="made", question={"kind": "new kind", "step": "made", "id": "n"})
    run.folder.keep_draft("made", second)
    page = page_of(run)
    one, two = page.drafts
    assert (one.round, one.changed) == (1, False)
    assert [line.text for line in one.lines] == first.splitlines()
    assert [line.text for line in two.lines if line.mark == "+"] == second.splitlines()[-2:]
    assert "anna in fractale web" in two.words
    assert [view.kind for view in page.questions if not view.answer] == ["new kind"]
    assert page.visits[0].state == "waiting"
    assert page.questions[0].href == page.visits[0].id


# -- what is bounded, masked, or left out ---------------------------------------------------------


def test_long_values_are_cut_and_say_where_the_whole_is():
    text, note = cut("x" * 10_000_000, Bounds(characters=5000, line=1000), "`fractale show r s`")
    assert len(text) == 1001
    assert (
        note == "cut: the whole text has 10,000,000 characters in 1 line; see `fractale show r s`"
    )
    text, note = cut("a\n" * 5000, Bounds(lines=10))
    assert text.count("\n") == 9
    assert note
    many = entries_of({f"k{i}": i for i in range(1000)})
    assert (len(many), many[-1].text) == (201, "800 more keys")
    assert shown("a", "").text == "(empty)"
    small = Bounds().shared_by(1000)
    assert small.characters < Bounds().characters / 20


@pytest.mark.parametrize(
    "text", ["\x1b[31mred", "\x1b]52;c;cHduZWQ=\x07", "\u202edesrever", "nul\0", "\u2066x\u2069"]
)
def test_no_control_character_reaches_the_page(text):
    assert all(c.isprintable() or c == "\n" for c in shown(text, {text: text}).text)
    assert shown(text, text).label.isprintable()
    assert shown("", text).text != text


def test_pictures_are_recognized_by_their_content_and_bounded():
    def result(data: bytes, kind: str = "image/png"):
        return {"content": [{"type": "image", "data": base64.b64encode(data).decode(), "mimeType": kind}]}  # fmt: skip  # noqa: E501

    shown_picture = Pictures().of(result(png(), "text/html"))[0]
    assert shown_picture.address.startswith("data:image/png;base64,")
    svg = Pictures().of(result(b"<svg onload=alert(1)>", "image/svg+xml"))[0]
    assert (svg.address, "not a PNG" in svg.words) == ("", True)
    assert "over 1 MiB" in Pictures().of(result(png() + b"0" * MOST_BYTES))[0].words
    assert type_of(png(100_000, 100_000)) == "", "a small file that fills the memory of a browser"
    frame = b"\xff\xc2\x00\x0b\x08" + struct.pack(">HH", 20_000, 20_000)
    assert type_of(b"\xff\xd8\xff\xe0\x00\x04ab" + frame) == ""
    assert type_of(b"\xff\xd8\xff\xe0\x00\x04ab" + frame[:5] + b"\0\2\0\3") == "image/jpeg"
    assert type_of(b"GIF89a" + struct.pack("<HH", 2, 3)) == "image/gif"
    assert type_of(b"GIF89a" + struct.pack("<HH", 50_000, 50_000)) == ""
    for chunk, small, big in (
        (b"VP8X", bytes(4) + b"\1\0\0\2\0\0", bytes(4) + b"\xff\xff\0\xff\xff\0"),
        (b"VP8L", b"\x2f\1\x80\0\0", b"\x2f\xff\xff\xff\xff"),
        (b"VP8 ", bytes(3) + b"\x9d\x01\x2a\2\0\3\0", bytes(6) + b"\xff\x3f\xff\x3f"),
    ):
        head = b"RIFF\0\0\0\0WEBP" + chunk + bytes(4)
        assert [type_of(head + each) for each in (small, big)] == ["image/webp", ""], chunk
    bad = {"content": [{"type": "image", "data": "…", "mimeType": "x"}, "text", {"resource": 1}]}
    assert "not valid base64" in Pictures().of(bad)[0].words
    blob = {"resource": {"blob": base64.b64encode(png()).decode(), "mimeType": "image/png"}}
    assert Pictures().of({"content": [blob]})[0].address
    pictures = Pictures()
    big = result(png() + b"0" * (MOST_BYTES - 100))
    assert [bool(pictures.of(big)[0].address) for _ in range(14)].count(False) == 2


def test_a_jobs_log_is_its_end_and_masked(tmp_path):
    run = Recording(tmp_path).start("melt").enter("melt", type="job")
    handle = {"scheduler": "local", "native_id": "q1", "key": "k7f3a-melt-1", "job_dir": "x"}
    run.add(
        "job_state", step="melt", job="q1", scheduler="local", state="failed", over=True,
        handle=handle, nodes=["n1"], submitted=run.time, started=run.time + 5, ended=run.time + 9,
    )  # fmt: skip
    folder = JobFolder.of(run.folder.jobs.absolute(), "k7f3a-melt-1")
    folder.log.parent.mkdir(parents=True)
    lines = [f"Step {i}" for i in range(5000)] + ["token hunter2-hunter2", "ERROR: reax/c"]
    folder.log.write_text("\n".join(lines) + "\n")
    page = page_of(
        run.leave("melt", outcome="failure").end("failed"), mask=Masker(["hunter2-hunter2"])
    )
    [job] = page.visits[0].detail.jobs
    assert job.important
    assert job.log.text.endswith("token ***\nERROR: reax/c")
    assert "the whole log has" in job.log.note
    assert "fractale logs k7f3a melt" in job.log.note
    rows = dict(job.rows)
    assert rows["nodes"] == "n1"
    assert "waited 5.0 s" in rows["submitted"]
    assert "ran 4.0 s" in rows["started"]


def test_a_link_in_the_place_of_a_log_is_not_followed(tmp_path):
    (tmp_path / "private").mkdir()
    (tmp_path / "private/log").write_text("a private key")
    run = Recording(tmp_path).start("melt").enter("melt", type="job")
    for key in ("file", "folder", "own"):
        run.add("job_state", step="melt", job=key, state="failed", over=True, handle={"key": key})
    logs = [JobFolder.of(run.folder.jobs.absolute(), key).log for key in ("file", "folder", "own")]
    logs[0].parent.mkdir(parents=True)
    logs[0].symlink_to(tmp_path / "private/log")
    logs[1].parent.symlink_to(tmp_path / "private")
    logs[2].parent.mkdir()
    logs[2].write_text("its own\n")
    jobs = page_of(run.leave("melt", outcome="failure").end("failed")).visits[0].detail.jobs
    assert [job.log.text if job.log else None for job in jobs] == [None, None, "its own"]
    assert [read_tail(log, 9, 900).text for log in logs] == ["", "", "its own\n"]


def test_commands_quote_odd_names_of_steps(tmp_path):
    page = page_of(Recording(tmp_path).start("a; rm b").visit("a; rm b").end())
    assert dict(page.repeat)["from a step of this run"] == "fractale fork k7f3a --at 'a; rm b'"


def test_the_costs_of_steps_add_up(tmp_path):
    run = Recording(tmp_path, parent={"run": "p4r3n", "step": "each"}).start("each", "last")
    run.enter("each", type="foreach")
    for i in range(2):
        run.add("item_started", step="each", index=i, total=2)
        run.enter(f"each[{i}]/cut").ask_model(f"each[{i}]/cut").leave(f"each[{i}]/cut", seconds=1.5)
        run.add("item_finished", step="each", index=i, total=2, outcome="success")
    run.leave("each", seconds=5.0).visit("last", seconds=2.0).end()
    line = {"is": "used", "key": "(inherited)", "amount": {"node_hours": 7.0}, "at": 0.0}
    run.folder.job_ledger.write_text(json.dumps(line) + "\n")
    table = page_of(run).costs[0]
    times = {row[0]: row[table.columns.index("time")] for row in table.rows}
    assert times == {
        "each": "2.0 s", "each/cut": "3.0 s", "last": "2.0 s", "(before the fork)": "",
        "together": "7.0 s",
    }  # fmt: skip
    hours = {row[0]: row[table.columns.index("node-hours")] for row in table.rows}
    assert (hours["(before the fork)"], hours["together"]) == ("7", "7")
    assert "jobs" not in table.columns


def test_node_hours_are_those_of_the_budget(tmp_path):
    run = Recording(tmp_path).start("melt").enter("melt", type="job")
    run.add("job_state", step="melt", job="1", state="completed", over=True, handle={"key": "a"})
    run.leave("melt").end()
    used = [("a", 1.5), ("of-a-tool", 0.25)]
    lines = [json.dumps({"is": "used", "key": k, "amount": {"node_hours": h}}) for k, h in used]
    run.folder.job_ledger.write_text("\n".join(lines) + "\n")
    [table] = page_of(run).costs
    hours = {row[0]: row[table.columns.index("node-hours")] for row in table.rows}
    assert hours == {"melt": "1.5", "(jobs of tools)": "0.25", "together": "1.75"}


@pytest.mark.parametrize("name", ["done1", "fails", "halfw", "limit", "waits", "36jha"])
def test_runs_of_version_0_2(name):
    history = read_history(RunRecords(OF_0_2).at(name))
    page = run_page(history)
    assert page.word
    assert len(page.visits) == len(history.attempts)
