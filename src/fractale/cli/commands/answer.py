"""``fractale answer``: answer the open questions of a run, from another terminal."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from fractale.cli import options
from fractale.cli.commands.resume import complete_runs

if TYPE_CHECKING:
    from fractale.runs.actions import Actions, Delivered, OpenQuestion
    from fractale.settings import Settings
    from fractale.store.run_record import RunRecord

BY = "fractale answer"
"""Where the user answers, as the record of the run has it."""
PATIENCE = 60.0
"""Seconds to wait until a background process has opened its servers: it may refuse the run."""


@click.command("answer", context_settings={"ignore_unknown_options": True})  # -1 is a run
@click.argument("run_id", metavar="RUN", shell_complete=complete_runs)
@click.argument("pairs", nargs=-1, metavar="[QUESTION=ANSWER]...")
@click.option("--list", "only_list", is_flag=True, help="List the open questions only.")
@click.option(
    "--wait", is_flag=True, help="Wait for the run: continue it here, or watch its process."
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@options.trust_option
def command(
    run_id: str, pairs: tuple[str, ...], *, only_list: bool, wait: bool, as_json: bool
) -> int:
    """Answer open questions of RUN; without answers, list them. -1 is the latest run.

    \b
    fractale answer k7f3a                   the open questions, and the answers to them
    fractale answer k7f3a submit=yes        by the name of the step that asks
    fractale answer k7f3a 3f2a9c1b=no       by the key of a question, as the list has it

    A process that asks the question at its terminal gets the answer, and its question ends there.
    If the run has no process, it continues in the background with the answer. The first valid
    answer counts. A secret is only typed at the terminal of the run.

    Exit codes: 0 the answers were accepted, or the questions were listed; 1 another answer was
    first, or the run could not be continued; 2 wrong use, such as an answer that the question does
    not accept. With --wait: those of `fractale resume`.
    """
    from fractale.cli.consent import ask_about_run
    from fractale.runs.actions import Actions
    from fractale.store.locks import holder_of
    from fractale.store.run_record import RunRecords

    answers = options.read_answers(pairs)
    acts = bool(answers) and not only_list
    settings = options.settings_of(acts=acts)
    record, actions = (
        RunRecords(settings.state_dir).find(run_id),
        Actions(settings, by=BY, patience=PATIENCE),
    )
    if not acts:
        return _list(record, actions.questions(record.run_id), as_json=as_json)
    ask_about_run(record, record.read_head(), settings)
    if wait and holder_of(record) is None:
        return _continue(record, actions, answers, settings, as_json=as_json)
    if wait:
        return _watch(record, actions, answers, as_json=as_json)
    return _answer(record, actions, answers, as_json=as_json)


def _answer(record: RunRecord, actions: Actions, answers: dict[str, str], *, as_json: bool) -> int:
    """Deliver the answers, and print where they went."""
    import asyncio

    from fractale.plain import to_json

    delivered = asyncio.run(actions.answer_all(record.run_id, answers))
    if as_json:
        data = {"run": record.run_id, "answers": [_data(each) for each in delivered]}
        click.echo(to_json(data))
        return 0
    _print(delivered)
    return 0


def _print(delivered: list[Delivered]) -> None:
    from fractale.questions import without_secrets
    from fractale.render.phrases import answer_text
    from fractale.render.text import inert

    for each in delivered:
        shown = answer_text(without_secrets(each.question, each.answer))
        click.echo(f"answered {inert(each.step, 100)}: {inert(shown, 1000)}")
    last = delivered[-1]
    run = last.run
    if last.started is None and all(each.taken for each in delivered):
        click.echo(f"run {run} has {'it' if len(delivered) == 1 else 'them'} and continues")
    elif last.started is None:
        click.echo(f"run {run} uses it once it has its other answers ({last.process})")
    elif not last.started.begun:
        words = "has not begun to continue yet, and uses the answer when it does"
        click.echo(f"run {run} {words} (process {last.started.pid})")
        click.echo(f"log     {inert(str(last.started.log), 4000)}")
    else:
        click.echo(f"run {run} continues in the background (process {last.started.pid})")
    click.echo(f"next    fractale watch {run}")


def _data(each: Delivered) -> dict[str, Any]:
    from fractale.questions import without_secrets

    started = each.started
    return {
        "key": each.key,
        "step": each.step,
        "answer": without_secrets(each.question, each.answer),
        "taken": each.taken,
        "process": each.process or None,
        "started": {"pid": started.pid, "log": str(started.log), "begun": started.begun}
        if started
        else None,
    }


def _continue(
    record: RunRecord,
    actions: Actions,
    answers: dict[str, str],
    settings: Settings,
    *,
    as_json: bool,
) -> int:
    """Resume the run in this process, with the answers."""
    from fractale.cli.commands.resume import resume

    found = actions.check(record.run_id, answers)
    replies = {str(each.question.get("id") or each.step): answers[name] for name, each in found}
    given = replace(options.CommandLine(), replies=replies, as_json=as_json)
    return resume(given, settings, record.run_id)


def _watch(record: RunRecord, actions: Actions, answers: dict[str, str], *, as_json: bool) -> int:
    """Deliver the answers to the process that has the run, and show the run as it continues."""
    import asyncio

    from fractale.cli.commands.watch import watch

    delivered = asyncio.run(actions.answer_all(record.run_id, answers))
    if not as_json:
        _print(delivered)
    return watch(record, as_json=as_json)


def _list(record: RunRecord, asked: list[OpenQuestion], *, as_json: bool) -> int:
    """Print the open questions: each exact call, and the answers that it accepts."""
    from fractale.plain import to_json
    from fractale.questions.kinds import examples, expected

    if as_json:
        found = [
            {
                "key": each.key,
                "step": each.step,
                "held": each.held,
                "asked_at": each.asked_at,
                "given": each.given or None,
                "problem": each.problem or None,
                "answer_with": expected(each.question),
                "examples": list(examples(each.question)),
                "question": dict(each.question),
            }
            for each in asked
        ]
        click.echo(to_json({"run": record.run_id, "questions": found}))
        return 0
    click.echo("\n".join(_listed(record, asked)))
    return 0


def _listed(record: RunRecord, asked: list[OpenQuestion]) -> list[str]:
    import shlex
    import sys

    from fractale.questions.kinds import examples
    from fractale.render.summary import question_text
    from fractale.render.text import count, inert, narrowed, plain, row, screen_width
    from fractale.runs.actions import short_name
    from fractale.store.locks import holder_of

    run, holder = record.run_id, holder_of(record)
    if not asked:
        busy = f"; {holder} is running it" if holder else ""
        return [f"run {run} has no open question{busy}", f"next    fractale show {run}"]
    where = f"{holder} asks now" if holder else "an answer continues it in the background"
    lines = [f"run {run} waits for {count(len(asked), 'answer')}; {where}"]
    for each in asked:
        name = short_name(each, asked)
        key = "" if name == each.step else f"   {each.key[:8]}"
        lines += ["", f"{inert(each.step, 100)}{key}"]
        lines += [f"  {words}" for words in question_text(each.question, 92)]
        if each.given:
            lines.append(f"  answered {inert(each.given, 200)}; the run has not used it yet")
        if each.problem:
            lines.append(f"  {each.problem}")
    open_here = [each for each in asked if not each.problem and not each.given]
    lines.append("")
    for number, each in enumerate(open_here):
        pair = shlex.quote(f"{short_name(each, asked)}={examples(each.question)[0]}")
        lines.append(f"{'next' if not number else '':8}fractale answer {run} {inert(pair, 1000)}")
    width = screen_width(sys.stdout)
    return [plain(line) for line in narrowed([row(words) for words in lines], width)]
