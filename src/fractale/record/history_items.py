"""One item of a foreach, as if it were a visit of a step of its own."""

from __future__ import annotations

import re
from dataclasses import replace

from fractale.record.history import Item, RunHistory, Visit

_ITEM = re.compile(r"(?P<block>.+)\[(?P<index>[0-9]+)\]")


def of_item(history: RunHistory, path: str) -> list[Visit]:
    """The visits of an item such as ``each[3]``, and of the steps inside of it.

    Returns:
        For each visit of the foreach that came to the item one with what is known of the item:
        its outcome, inputs, outputs, calls, questions and warnings. Empty where there is none.
    """
    found = _ITEM.fullmatch(path)
    if found is None:
        return []
    blocks, index = history.of_step(found["block"]), int(found["index"])
    visits: list[Visit] = []
    for block in blocks:
        if item := block.items.get(index):
            name = f"{block.path}[{index}]"
            visits.append(_visit(block, item, name))
            visits += [v for v in history.visits if _lies_in(v, block, f"{name}/")]
    return visits


def _lies_in(visit: Visit, block: Visit, prefix: str) -> bool:
    around = visit.parent
    while around is not None and around is not block:
        around = around.parent
    return around is block and visit.path.startswith(prefix)


def _visit(block: Visit, item: Item, path: str) -> Visit:
    calls = [call for call in block.calls if call.step == path]
    return replace(
        block,
        path=path,
        previous=None,
        started=item.started or block.started,
        ended=None,
        outcome=item.outcome,
        event=None,
        decided_by=item.decided_by,
        reason=item.error or "",
        error=item.error,
        code=None,
        next=None,
        seconds=item.seconds,
        tokens=sum(call.input_tokens + call.output_tokens for call in calls),
        inputs=item.inputs,
        outputs=item.outputs,
        outputs_cut=False,
        enterings=1,
        calls=calls,
        items={},
        jobs=[job for job in block.jobs if job.step == path],
        questions=[asked for asked in block.questions if asked.step == path],
        warnings=[note for note in block.warnings if note.step == path],
        tables={},
    )
