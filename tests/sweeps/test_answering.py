"""Questions of a sweep's runs: grouped, answered once for all that ask the same, then resumed."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from fractale.audit import FILE as AUDIT
from fractale.errors import AnswerError
from fractale.sweeps.answering import answer_sweep, name_of, question_groups
from fractale.sweeps.record import SweepRecord
from fractale.sweeps.results import view_of
from fractale.sweeps.resuming import resume_sweep
from swept import ASKS, ASKS_EACH, InProcess, driven, effects, made_sweep, settings_in, states

APPROVES = """name: p
inputs:
  x: {type: integer}
steps:
  - name: last
    tool: double
    approve: ask
    inputs: {x: '{{ inputs.x }}'}
outputs:
  y: '{{ steps.last.outputs.result }}'
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


async def waiting_sweep(here: Path, plan: str, rows: int = 3) -> SweepRecord:
    """A sweep all of whose runs wait."""
    record, executor = made_sweep(here, rows, plan), InProcess(here)
    async with executor:
        view = await driven(record, executor, settings_in(here))
    assert states(view) == ["waiting"] * rows
    return record


def answer(record: SweepRecord, here: Path, answers: dict[str, str], **more):
    return answer_sweep(record, settings_in(here), answers, via="a test", **more)


async def resumed(record: SweepRecord, here: Path):
    executor = InProcess(here)
    done = await resume_sweep(record, settings_in(here), executor=executor)
    return done, executor


async def test_one_answer_serves_all_runs_that_ask_the_same(here: Path) -> None:
    record = await waiting_sweep(here, ASKS)
    (group,) = question_groups(record)
    assert (group.step, group.rows) == ("review", [0, 1, 2])

    (done,) = answer(record, here, {"review": "yes"})

    assert list(done.rows) == [0, 1, 2]
    result, executor = await resumed(record, here)
    assert result.rows == 3
    assert result.view.counts == {"success": 3}
    assert sorted(effects(here)) == ["double 0", "double 1", "double 2"]
    assert executor.rows == [0, 1, 2]


async def test_answered_rows_are_shown_as_answered_until_they_are_resumed(here: Path) -> None:
    record = await waiting_sweep(here, ASKS)
    assert [row.asks for row in view_of(record).rows] == [("review",)] * 3

    answer(record, here, {"review": "yes"})

    view = view_of(record)
    assert [(row.state, row.asks, row.answered) for row in view.rows] == [("waiting", (), True)] * 3
    assert question_groups(record) == []
    assert "fractale sweep resume s" in view.next
    assert "fractale sweep answer s" not in view.next
    with pytest.raises(AnswerError, match="no run of sweep s waits"):
        answer(record, here, {"review": "no"})
    await resumed(record, here)
    assert not any(row.answered for row in view_of(record).rows)


async def test_questions_that_differ_are_groups_and_one_answer_does_not_cover_them(
    here: Path,
) -> None:
    record = await waiting_sweep(here, ASKS_EACH)
    groups = question_groups(record)
    assert sorted(group.question["text"] for group in groups) == [
        f"Shall {x} run?" for x in range(3)
    ]
    assert {name_of(group, groups) for group in groups} == {group.key[:8] for group in groups}

    with pytest.raises(AnswerError, match="3 different questions at `review`"):
        answer(record, here, {"review": "yes"})
    assert not any(row.answered for row in view_of(record).rows)

    first = next(group for group in groups if group.rows == [1])
    answer(record, here, {first.key[:8]: "yes"})
    result, executor = await resumed(record, here)
    assert executor.rows == [1]
    assert states(result.view) == ["waiting", "success", "waiting"]


async def test_an_approval_covers_one_exact_call(here: Path) -> None:
    record = await waiting_sweep(here, APPROVES)
    groups = question_groups(record)
    assert len(groups) == 3
    assert sorted(group.question["arguments"]["x"] for group in groups) == [0, 1, 2]
    with pytest.raises(AnswerError) as refused:
        answer(record, here, {"last": "yes"})
    assert "--all" in str(refused.value.hint)
    assert effects(here) == []


async def test_all_gives_one_answer_to_questions_that_differ(here: Path) -> None:
    record = await waiting_sweep(here, APPROVES)
    answer(record, here, {"last": "yes"}, for_all=True)
    result, _ = await resumed(record, here)
    assert result.view.counts == {"success": 3}
    assert sorted(effects(here)) == ["double 0", "double 1", "double 2"]


async def test_an_answer_that_does_not_fit_is_refused_and_none_is_given(here: Path) -> None:
    record = await waiting_sweep(here, APPROVES)
    with pytest.raises(AnswerError):
        answer(record, here, {"last": "perhaps"}, for_all=True)
    with pytest.raises(AnswerError, match="has an open question `other`"):
        answer(record, here, {"other": "yes"})
    with pytest.raises(AnswerError, match="empty answer"):
        answer(record, here, {"last": ""}, for_all=True)
    assert not any(row.answered for row in view_of(record).rows)
    assert not record.answered.exists()


async def test_a_refusal_counts_as_the_run_treats_it(here: Path) -> None:
    record = await waiting_sweep(here, APPROVES, rows=1)
    answer(record, here, {"last": "no"})
    result, _ = await resumed(record, here)
    assert states(result.view) == ["failed"]
    assert effects(here) == []


async def test_a_process_that_drives_the_sweep_takes_the_answers(here: Path) -> None:
    """A row that waits is resumed while another one is still in progress."""
    record = made_sweep(here, 2, ASKS, max_parallel=2)
    executor = InProcess(here)
    executor.workers = 2
    perform = executor.perform
    answered = asyncio.Event()

    async def act(task):
        if task.row == 1:  # a long run, in which the user answers the other
            until = asyncio.get_running_loop().time() + 30
            while executor.rows.count(0) < 2 and asyncio.get_running_loop().time() < until:
                if states(view_of(record))[0] == "waiting" and not answered.is_set():
                    answer(record, here, {"review": "yes"})
                    answered.set()
                await asyncio.sleep(0.05)
        return await perform(task)

    executor.perform = act  # type: ignore[method-assign]  # an adapter of this test
    async with executor:
        view = await driven(record, executor, settings_in(here))
    assert states(view) == ["success", "waiting"]
    assert effects(here) == ["double 0"]


async def test_each_answer_is_in_the_audit_log_once(here: Path) -> None:
    record = await waiting_sweep(here, ASKS)
    answer(record, here, {"review": "yes"})
    lines = [
        line
        for line in (here / "state" / AUDIT).read_text().splitlines()
        if '"action": "answer"' in line or '"action":"answer"' in line
    ]
    assert len(lines) == 1
    assert '"rows": 3' in lines[0] or '"rows":3' in lines[0]


async def test_the_answers_are_private(here: Path) -> None:
    record = await waiting_sweep(here, ASKS, rows=1)
    answer(record, here, {"review": "yes"})
    assert record.answered.stat().st_mode & 0o077 == 0
