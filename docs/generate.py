"""Write the parts of the documentation that come from the code, or check that they are current.

    python docs/generate.py [--check]

Each generated part is a whole file, or a block of a page between ``<!-- generated: NAME -->`` and
``<!-- end -->``. With ``--check`` nothing is written; the exit code is 1 if a part is out of date.
"""

from __future__ import annotations

import argparse
import difflib
import inspect
import json
import re
import sys
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click
import grimp

import fractale
from fractale.cli import COMMANDS, cli
from fractale.plan.agents import EXPERT_KEYS
from fractale.plan.expressions.reference import REFERENCE
from fractale.plan.forms import Key, keys_of
from fractale.plan.inputs import INPUT_KEYS
from fractale.plan.job import JOB_KEYS, METRIC_KEYS
from fractale.plan.kinds import KINDS
from fractale.plan.model import PLAN_KEYS, STEP_KEYS, Limits, Retry
from fractale.plan.schema import SCHEMA_FILE, schema_text
from fractale.sweeps.sweep_file import SWEEP_KEYS, SweepLimits

DOCS = Path(__file__).parent
SCHEMA = DOCS.parent / "src/fractale/plan" / SCHEMA_FILE
WIDTH = 92
BLOCK = re.compile(r"^(<!-- generated: (.+?) -->\n).*?^(<!-- end -->)$", re.MULTILINE | re.DOTALL)


def commands() -> str:
    """The page of all commands: the text of each ``--help``, as click writes it."""
    parts = [
        "# Commands\n",
        "What each command prints for `--help`. This page is written by `make docs`.\n",
        _help(["fractale"], cli, None),
    ]
    root = click.Context(cli, info_name="fractale")
    for name in COMMANDS:
        command = cli.get_command(root, name)
        assert command is not None
        parts += [f"\n## fractale {name}\n", _help(["fractale", name], command, root)]
        if isinstance(command, click.Group):
            context = click.Context(command, info_name=name, parent=root)
            for inner in command.list_commands(context):
                below = command.get_command(context, inner)
                assert below is not None
                parts += [f"\n### fractale {name} {inner}\n", _help([inner], below, context)]
    return "\n".join(parts)


def _help(words: list[str], command: click.Command, parent: click.Context | None) -> str:
    settings = {**command.context_settings, "terminal_width": WIDTH, "max_content_width": WIDTH}
    context = click.Context(command, info_name=words[-1], parent=parent, **settings)
    lines = [line.rstrip() for line in command.get_help(context).splitlines()]
    return "```text\n" + "\n".join(lines) + "\n```\n"


def architecture() -> str:
    """The packages by layer, each with the packages that it imports, as a Mermaid diagram.

    Layers are those of the import contract in pyproject.toml. Imports are read from the code. An
    arrow that follows from others is left out.
    """
    settings = tomllib.loads((DOCS.parent / "pyproject.toml").read_text())
    contracts = settings["tool"]["importlinter"]["contracts"]
    layers = next(each["layers"] for each in contracts if each["type"] == "layers")
    rows = [[name.strip() for name in layer.split("|")] for layer in layers]
    graph = grimp.build_graph("fractale", exclude_type_checking_imports=True)
    imports: dict[str, set[str]] = {name: set() for row in rows for name in row}
    for name in imports:
        for other in imports:
            if name != other and graph.find_shortest_chains(
                f"fractale.{name}", f"fractale.{other}", as_packages=True
            ):
                imports[name].add(other)
    lines = ["```mermaid", "flowchart TD"]
    for number, row in enumerate(rows):
        lines.append(f"  subgraph layer{number}[ ]")
        lines += [f"    {name}" for name in row]
        lines.append("  end")
    for name, below in imports.items():
        indirect = {deeper for other in below for deeper in imports[other]}
        lines += [f"  {name} --> {other}" for other in sorted(below - indirect)]
    return "\n".join([*lines, "```", ""])


def keys(of: Mapping[str, Key]) -> str:
    """The table of the keys of a part of the plan language."""
    rows = [f"| `{name}` | {_meaning(key)} |" for name, key in of.items()]
    return "\n".join(["| key | meaning |", "|---|---|", *rows, ""])


def _meaning(key: Key) -> str:
    words = [key.help]
    if key.required is not None:
        words.insert(0, "**Required.**")
    if isinstance(key.default, (str, int, float)) and key.default not in ("", False):
        words.append(f"Default: `{str(key.form.dump(key.default)).lower()}`.")
    if key.kinds:
        words.append(f"Only in steps of the type {', '.join(f'`{kind}`' for kind in key.kinds)}.")
    return " ".join(words).replace("|", r"\|")


def expressions() -> str:
    """The table of the functions, tests, filters and methods of expressions."""
    rows = ["| Name | What | Meaning | Example | Result |", "|---|---|---|---|---|"]
    for what, entries in REFERENCE.items():
        for entry in entries:
            names = ", ".join(f"`{name}`" for name in entry.names)
            result = json.dumps(entry.result)
            cells = (names, what, entry.meaning, f"`{entry.example}`", f"`{result}`")
            rows.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join([*rows, ""])


def public(*, errors: bool, classes: bool) -> str:
    """The public names of one kind, each with the first sentence of its docstring."""
    rows = ["| Name | Meaning |", "|---|---|"]
    for name in fractale.__all__:
        value = getattr(fractale, name)
        is_error = isinstance(value, type) and issubclass(value, fractale.FractaleError)
        if (is_error, isinstance(value, type)) == (errors, classes):
            text = (inspect.getdoc(value) or "").split("\n\n")[0].replace("\n", " ")
            first = re.split(r"(?<=[.:]) ", text)[0].rstrip(":.").replace("|", r"\|")
            code = f" Code `{value.code}`, exit code {value.exit_code}." if is_error else ""
            rows.append(f"| `{name}` | {first.replace('``', '`')}.{code} |")
    return "\n".join([*rows, ""])


FILES: dict[Path, Callable[[], str]] = {DOCS / "commands.md": commands, SCHEMA: schema_text}
BLOCKS: dict[str, Callable[[], str]] = {
    "architecture": architecture,
    "keys of a plan": lambda: keys(PLAN_KEYS),
    "keys of an input": lambda: keys(INPUT_KEYS),
    "keys of limits": lambda: keys(keys_of(Limits)),
    "keys of an agent in the plan": lambda: keys(EXPERT_KEYS),
    "keys of a step": lambda: keys(
        {n: k for n, k in STEP_KEYS.items() if n not in JOB_KEYS or n in KINDS}
    ),
    "keys of retry": lambda: keys(keys_of(Retry)),
    "public errors": lambda: public(errors=True, classes=True),
    "public functions": lambda: public(errors=False, classes=False),
    "public types": lambda: public(errors=False, classes=True),
    "names of expressions": expressions,
    "keys of a sweep file": lambda: keys(SWEEP_KEYS),
    "limits of a sweep": lambda: keys(keys_of(SweepLimits)),
    "keys of a job": lambda: keys(JOB_KEYS),
    "keys of an output of a job": lambda: keys(METRIC_KEYS),
}


def parts() -> dict[Path, str]:
    """Each file that has generated parts, with its text as it should be."""
    made = {path: make() for path, make in FILES.items()}
    for page in sorted(DOCS.rglob("*.md")):
        if page in made:
            continue
        text = page.read_text()
        current = BLOCK.sub(_filled, text)
        if "<!-- generated:" in text:
            made[page] = current
    return made


def _filled(match: re.Match[str]) -> str:
    if match[2] not in BLOCKS:
        raise SystemExit(f"no generated part is called `{match[2]}`: {', '.join(BLOCKS)}")
    return f"{match[1]}{BLOCKS[match[2]]()}{match[3]}"


def main(words: list[str] | None = None) -> int:
    """Write or check; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="Write nothing; report what is old.")
    options: Any = parser.parse_args(words)
    old = 0
    for path, text in parts().items():
        written = path.read_text() if path.exists() else ""
        if written == text:
            continue
        old += 1
        if options.check:
            name = path.relative_to(DOCS.parent)
            print(f"{name} is out of date: run `make docs`")
            lines = difflib.unified_diff(written.splitlines(), text.splitlines(), lineterm="", n=0)
            print("\n".join(list(lines)[:20]))
        else:
            path.write_text(text)
    return 1 if old and options.check else 0


if __name__ == "__main__":
    sys.exit(main())
