"""A server's question, asked field by field."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fractale.cli.person_input import TerminalInput
from fractale.cli.render import questions as shown
from fractale.cli.render.phrases import as_json
from fractale.cli.render.text import row
from fractale.errors import AnswerError
from fractale.masking import MASK
from fractale.questions.forms import (
    defaults_of,
    properties_of,
    read_field,
    required_of,
    secret_fields,
)

LEAVES = {"/decline": "decline", "/cancel": "cancel"}


async def fill_form(terminal: TerminalInput, schema: Mapping[str, Any]) -> dict[str, Any]:
    """Ask for each field that a server wants; nothing is sent before the person has seen it.

    Returns:
        ``{action: accept, content: {...}}``, ``{action: decline}`` or ``{action: cancel}``.
    """
    names = list(properties_of(schema))
    if not names:
        return await _send(terminal, {})
    terminal.show(row("  (/decline says no to it, /cancel gives it up)", "dim"))
    content: dict[str, Any] = {}
    for name in names:
        raw = await _field(terminal, name, schema)
        if isinstance(raw, str) and raw in LEAVES:
            return {"action": LEAVES[raw]}
        if raw is not None:
            content[name] = raw
    if len(names) == 1:
        return {"action": "accept", "content": content}
    hidden = dict.fromkeys(secret_fields(schema) & content.keys(), MASK)
    lines = shown.arguments_lines({**content, **hidden})
    terminal.show(*(row(f"    {line}") for line in lines))
    return await _send(terminal, content)


async def _send(terminal: TerminalInput, content: dict[str, Any]) -> dict[str, Any]:
    terminal.show(row("  y send it · n decline · c cancel"))
    while True:
        key = (await terminal.line()).strip().casefold()
        if key == "y":
            return {"action": "accept", "content": content}
        if key in ("n", "c"):
            return {"action": "decline" if key == "n" else "cancel"}
        terminal.show(row("  one of: y, n, c"))


async def _field(terminal: TerminalInput, name: str, schema: Mapping[str, Any]) -> Any:
    """One field's value; None where it is left out, or a word that leaves the form."""
    terminal.show(*(row(f"  {line}") for line in shown.field_lines(name, schema)))
    defaults = defaults_of(schema)
    prompt = f"  [{shown.exact(as_json(defaults[name]))}] > " if name in defaults else "  > "
    secret = name in secret_fields(schema)
    if secret:
        terminal.show(row("  (a secret: what you type is not shown and not stored)", "dim"))
        prompt = "  > "
    while True:
        text = await terminal.line(prompt, hidden=secret)
        if text.strip() in LEAVES:
            return text.strip()
        if not text.strip():
            if name in defaults:
                return defaults[name]
            if name not in required_of(schema):
                return None
            terminal.show(row("  an answer is needed here", "warn"))
            continue
        try:
            return read_field(properties_of(schema)[name], text)
        except AnswerError as error:
            words = "this is no such value" if secret else shown.inert(error.message)
            terminal.show([("  ", ""), (words, "warn")])
