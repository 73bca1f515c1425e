"""The timeline: what was computed, what was waited for, and what happened at the same time."""

from __future__ import annotations

from fractale.record.history_reader import read_history
from fractale.report.plots import plots_of, table_view
from fractale.report.timeline import AREA, NAMES, timeline
from recording import BEGIN, Recording


def drawn(run: Recording, now: float = BEGIN + 10):
    found = timeline(read_history(run.folder), now)
    assert found is not None
    for lane in found.lanes:
        for bar in lane.bars:
            assert NAMES - 1 <= bar.x <= NAMES + AREA + 1
            assert bar.x + bar.width <= NAMES + AREA + 3
    return found


def bars(found, kind: str):
    return [bar for lane in found.lanes for bar in lane.bars if bar.kind == kind]


def test_a_night_of_waiting_is_drawn_short(tmp_path):
    run = Recording(tmp_path).start("one", "ask", "two").visit("one").enter("ask", type="ask")
    question = {"kind": "question", "step": "ask", "text": "?", "id": "q"}
    run.add("waiting", step="ask", question=question)
    run.end("waiting")
    run.time += 12 * 3600
    run.start(resumed=True).enter("ask", type="ask")
    run.add("answered", step="ask", question=question, answer="x", by="person")
    run.leave("ask").enter("two").call("two").leave("two").end()
    found = drawn(run)
    [gap] = found.breaks
    assert gap.label.startswith("12 h")
    assert gap.width < AREA / 10
    assert bars(found, "wait")
    sums = dict(found.sums)
    assert sums["waited for answers"].startswith("12 h")
    assert sums["no process"].startswith(("12 h", "11 h"))


def test_the_night_after_a_kill_is_drawn_short(tmp_path):
    run = Recording(tmp_path).start("one", "two").visit("one").enter("two", type="prompt")
    run.ask_model("two").ask_model("two", 2)
    run.time += 12 * 3600
    run.start(resumed=True).enter("two", type="prompt").ask_model("two", 3).leave("two").end()
    found = drawn(run)
    [gap] = found.breaks
    assert gap.label.startswith("12 h")
    assert gap.width < AREA / 10
    assert dict(found.sums)["no process"].startswith("12 h")


def test_attempts_of_a_step_share_a_lane_and_retries_are_notched(tmp_path):
    run = Recording(tmp_path).start("go")
    run.visit("go", 1, outcome="failure", next="go").visit("go", 2)
    [lane] = drawn(run.end()).lanes
    assert [(bar.kind, bar.again) for bar in lane.bars] == [("failure", False), ("success", True)]
    assert [bar.href for bar in lane.bars] == ["step-go", "step-go~2"]
    assert lane.bars[0].x < lane.bars[1].x


def test_what_happens_at_the_same_time_is_drawn_in_rows(tmp_path):
    run = Recording(tmp_path).start("each").enter("each", type="foreach")
    for i in range(9):
        run.enter(f"each[{i}]/one")
    for i in range(9):
        run.leave(f"each[{i}]/one")
    lanes = drawn(run.leave("each").end()).lanes
    assert [lane.label for lane in lanes] == ["each", "one"]
    rows = [bar.y for bar in lanes[1].bars]
    assert len(set(rows)) == 6, "at most six rows"


def test_jobs_have_a_lane_with_their_queue(tmp_path):
    run = Recording(tmp_path).start("melt").enter("melt", type="job")
    run.add(
        "job_state", step="melt", job="4711", scheduler="slurm", state="completed", over=True,
        handle={"key": "k"}, submitted=BEGIN + 1, started=BEGIN + 5, ended=BEGIN + 8, nodes=["n3"],
    )  # fmt: skip
    run.time = BEGIN + 9
    found = drawn(run.leave("melt").end())
    assert [lane.label for lane in found.lanes] == ["melt", "job"]
    [queue], [job] = bars(found, "queue"), bars(found, "job")
    assert abs(queue.x + queue.width - job.x) < 1
    assert "waited 4.0 s" in queue.title
    assert "on n3" in job.title


def test_the_program_of_a_script_is_no_job_in_a_queue(tmp_path):
    run = Recording(tmp_path).start("words").enter("words", type="script")
    run.add(
        "job_state", step="words", job="words", scheduler="local", state="completed", over=True,
        handle={"key": "k"}, submitted=BEGIN + 1, started=BEGIN + 5, ended=BEGIN + 8, nodes=[],
    )  # fmt: skip
    run.time = BEGIN + 9
    found = drawn(run.leave("words").end())
    assert [lane.label for lane in found.lanes] == ["words", "program"]
    assert not bars(found, "queue")
    [program] = bars(found, "job")
    assert program.title.startswith("program of words, completed")


def test_a_run_that_was_killed_ends_where_it_was_last_seen(tmp_path):
    run = Recording(tmp_path).start("go").enter("go").call("go", end=False)
    found = drawn(run, now=BEGIN + 1e6)
    assert bars(found, "stopped")
    assert dict(found.sums)["from start to end"].endswith(" s")


def test_no_step_no_timeline(tmp_path):
    assert timeline(read_history(Recording(tmp_path).start("x").folder), BEGIN) is None


# -- tables and plots -----------------------------------------------------------------------------


def test_numbers_are_plotted_against_the_column_that_grows():
    rows = [
        {"trial": i, "params": {"x": x}, "rate": rate, "note": "n", "ok": True}
        for i, (x, rate) in enumerate([(1, 2.0), (3, 8.0), (2, None), (4, 5.5)], 1)
    ]
    table = table_view("trials", "tune", rows)
    assert table.columns == ("trial", "params.x", "rate", "note", "ok")
    assert table.numeric == (True, True, True, False, False)
    assert table.rows[2][2] == "-"
    assert [(plot.title, plot.x_label) for plot in table.plots] == [
        ("params.x", "trial"),
        ("rate", "trial"),
    ]
    assert len(table.plots[1].points) == 3, "a missing value is left out"
    assert table.plots[1].best == "least 2 at trial 1, greatest 8 at trial 2"


def test_odd_numbers_do_not_break_a_plot():
    values = [1, 10**400, 1e305, -1e-320, 2, 2, True, "x"]
    assert [len(plot.points) for plot in plots_of([{"a": value} for value in values[:5]])] == [3]
    assert plots_of([{"a": value} for value in values]) == []
    rows = [{"a": i, "b": (-1) ** i * 1e-300} for i in range(5000)]
    [plot] = plots_of(rows)
    assert len(plot.points) <= 1000
    assert plots_of([{"a": 1}, {"a": 1}, {"a": 1}]) == []
    assert table_view("t", "s", []).rows == ()
    assert table_view("t", "s", [{"a": i} for i in range(500)]).note == "the last 200 of 500 rows"
