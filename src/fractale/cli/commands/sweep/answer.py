"""``fractale sweep answer``: answer all runs of a sweep that ask the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from fractale.cli import options
from fractale.cli.commands.sweep.show import complete_sweeps

if TYPE_CHECKING:
    from fractale.settings import Settings
    from fractale.sweeps.answering import Answered, QuestionGroup
    from fractale.sweeps.record import SweepRecord

BY = "fractale sweep answer"
"""Where the user answers, as the records of the runs have it."""

MOST_GROUPS = 20
"""The most groups that a list shows."""


@click.command("answer", context_settings={"ignore_unknown_options": True})  # -1 is a sweep
@click.argument("sweep_id", metavar="SWEEP", shell_complete=complete_sweeps)
@click.argument("pairs", nargs=-1, metavar="[QUESTION=ANSWER]...")
@click.option(
    "--all",
    "for_all",
    is_flag=True,
    help="Give the answer for a step to all its questions, also if they differ, such as approvals "
    "of different calls.",
)
@click.option("--no-resume", is_flag=True, help="Only give the answers; `sweep resume` uses them.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.option("-q", "--quiet", is_flag=True, help="Print only the summary at the end.")
@options.trust_option
def command(
    sweep_id: str,
    pairs: tuple[str, ...],
    *,
    for_all: bool,
    no_resume: bool,
    as_json: bool,
    quiet: bool,
) -> int:
    """Answer the questions of all runs of SWEEP that ask the same; without answers, list them.

    \b
    fractale sweep answer melt                  the questions, and how many runs ask each
    fractale sweep answer melt review=yes       by the name of the step that asks
    fractale sweep answer melt 3f2a9c1b=no      by the key of a question, as the list has it

    Questions are the same if their text, tool and arguments are equal: an approval covers one exact
    call. The answered runs are then resumed: here, or by the process that drives the sweep.

    Exit codes: 2 no run waits for an answer, or wrong use; else as `fractale sweep resume`. With
    --no-resume, or if another process drives the sweep: 0.
    """
    from fractale.sweeps.answering import answer_sweep, question_groups
    from fractale.sweeps.record import SweepRecords

    answers = options.read_answers(pairs)
    settings = options.settings_of(acts=bool(answers))
    record = SweepRecords(settings.state_dir).find(sweep_id)
    if not answers:
        return _list(record, question_groups(record), as_json=as_json)
    given = answer_sweep(record, settings, answers, via=BY, for_all=for_all)
    if not as_json:
        _print(given)
    return _continue(record, settings, given, no_resume=no_resume, as_json=as_json, quiet=quiet)


def _continue(
    record: SweepRecord,
    settings: Settings,
    given: Sequence[Answered],
    *,
    no_resume: bool,
    as_json: bool,
    quiet: bool,
) -> int:
    """Resume the answered runs, unless another process does."""
    from fractale.cli.commands.sweep.resume import resume
    from fractale.plain import to_json
    from fractale.store.locks import holder_of_lock

    holder = holder_of_lock(record.lock)
    if holder is None and not no_resume:
        return resume(record, settings, as_json=as_json, quiet=quiet)
    if as_json:
        answers = [
            {
                "step": each.group.step,
                "answer": each.answer,
                "rows": list(each.rows),
                "answered_before": list(each.earlier),
            }
            for each in given
        ]
        click.echo(to_json({"sweep": record.sweep_id, "answers": answers}))
    elif holder is not None:
        click.echo(f"sweep {record.sweep_id} continues with them ({holder})")
        click.echo(f"next    fractale sweep watch {record.sweep_id}")
    else:
        click.echo(f"next    fractale sweep resume {record.sweep_id}")
    return 0


def _print(given: Sequence[Answered]) -> None:
    from fractale.render.phrases import answer_text
    from fractale.render.text import inert
    from fractale.text import count

    for each in given:
        shown = inert(answer_text(each.answer), 1000)
        runs = count(len(each.rows), "run")
        click.echo(f"answered {inert(each.group.step, 100)} for {runs}: {shown}")
        if each.earlier:
            click.echo(f"  {count(len(each.earlier), 'run')} had another answer before")


def _list(record: SweepRecord, groups: Sequence[QuestionGroup], *, as_json: bool) -> int:
    """Print the questions: each exact call, how many runs ask it, and the answers it accepts."""
    from fractale.cli.commands.show import print_lines
    from fractale.errors import AnswerError
    from fractale.plain import to_json
    from fractale.questions.kinds import examples, expected
    from fractale.render.text import row

    if as_json:
        found = [
            {
                "key": each.key,
                "step": each.step,
                "runs": [asking.row.run for asking in each.asking],
                "rows": each.rows,
                "problem": each.problem or None,
                "answer_with": expected(each.question),
                "examples": list(examples(each.question)),
                "question": dict(each.question),
            }
            for each in groups
        ]
        click.echo(to_json({"sweep": record.sweep_id, "questions": found}))
        return 0 if groups else 2
    if not groups:
        raise AnswerError(
            f"no run of sweep {record.sweep_id} waits for an answer",
            hint=f"`fractale sweep show {record.sweep_id}` shows its rows",
        )
    print_lines([row(words) for words in _listed(record, groups)])
    return 0


def _listed(record: SweepRecord, groups: Sequence[QuestionGroup]) -> list[str]:
    import shlex

    from fractale.questions.kinds import examples
    from fractale.render.summary import question_text
    from fractale.render.text import inert
    from fractale.sweeps.analysis import row_ranges
    from fractale.sweeps.answering import SHORT, name_of
    from fractale.text import count

    sweep, runs = record.sweep_id, sum(len(each.asking) for each in groups)
    questions = count(len(groups), "different question")
    lines = [f"sweep {sweep}: {count(runs, 'run')} waiting with {questions}"]
    for each in groups[:MOST_GROUPS]:
        lines += ["", f"{inert(each.step, 60)}   {each.key[:SHORT]}"]
        rows = row_ranges([asking.row for asking in each.asking])
        lines.append(f"  {count(len(each.asking), 'run')}: rows {rows}")
        lines += [f"  {words}" for words in question_text(each.question, 92)]
        if each.problem:
            lines.append(f"  {each.problem}")
    if len(groups) > MOST_GROUPS:
        lines += ["", f"… and {len(groups) - MOST_GROUPS} more; --json has all"]
    lines.append("")
    for number, each in enumerate(groups[:5]):
        pair = shlex.quote(f"{name_of(each, groups)}={examples(each.question)[0]}")
        lines.append(
            f"{'next' if not number else '':8}fractale sweep answer {sweep} {inert(pair, 1000)}"
        )
    return lines
