"""Tables of the documentation that come from code.

A page marks a table with ``<!-- generated: NAME -->`` and ``<!-- end -->``. `make docs` writes what
is between them, and the committed JSON Schema. tests/docs/test_generated.py and
tests/plan/test_plan_schema.py fail if these and the code differ.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from fractale.plan.forms import Key, keys_of
from fractale.plan.inputs import INPUT_KEYS
from fractale.plan.job import JOB_KEYS, METRIC_KEYS
from fractale.plan.model import PLAN_KEYS, STEP_KEYS, Limits, Retry
from fractale.plan.schema import SCHEMA_FILE, schema_text

ROOT = Path(__file__).parents[2]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
BLOCK = re.compile(r"(?<=^<!-- generated: )(.+?) -->\n.*?(?=^<!-- end -->$)", re.M | re.S)


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table in Markdown."""
    names = list(head)
    lines = [names, *([cell.replace("|", r"\|") for cell in row] for row in rows)]
    first, *rest = (f"| {' | '.join(line)} |" for line in lines)
    return "\n".join([first, f"|{'---|' * len(names)}", *rest])


def keys(of: Mapping[str, Key]) -> str:
    """The table of the keys of a part of the plan language."""
    return table(("key", "meaning"), ((f"`{name}`", _meaning(key)) for name, key in of.items()))


def _meaning(key: Key) -> str:
    words = [key.help]
    if key.required is not None:
        words.insert(0, "**Required.**")
    if isinstance(key.default, (str, int, float)) and key.default not in ("", False):
        words.append(f"Default: `{str(key.form.dump(key.default)).lower()}`.")
    if key.kinds:
        words.append(f"Only in steps of the type {', '.join(f'`{kind}`' for kind in key.kinds)}.")
    return " ".join(words)


TABLES: Mapping[str, Callable[[], str]] = {
    "keys of a plan": lambda: keys(PLAN_KEYS),
    "keys of an input": lambda: keys(INPUT_KEYS),
    "keys of limits": lambda: keys(keys_of(Limits)),
    "keys of a step": lambda: keys({n: k for n, k in STEP_KEYS.items() if n not in JOB_KEYS}),
    "keys of retry": lambda: keys(keys_of(Retry)),
    "keys of a job": lambda: keys(JOB_KEYS),
    "keys of an output of a job": lambda: keys(METRIC_KEYS),
}


def generated(page: str) -> str:
    """A page with its tables as the code says them."""
    return BLOCK.sub(lambda found: f"{found[1]} -->\n{TABLES[found[1]]()}\n", page)


def main() -> None:
    """Write the tables of all pages, and the JSON Schema."""
    written = {path: generated(path.read_text(encoding="utf-8")) for path in PAGES}
    written[ROOT / "src/fractale/plan" / SCHEMA_FILE] = schema_text()
    for path, text in written.items():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            print(f"{path.relative_to(ROOT)}: written anew")


if __name__ == "__main__":
    main()
