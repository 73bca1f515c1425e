"""Check texts against the rules of docs/style/fractale, which are in vale's format.

    python docs/style/check.py [--words-only] PATH ...

A path is a Markdown file, a Python file (its docstrings, comments and texts with spaces), or a
directory of them. The program prints ``file:line: message`` for each finding and exits with 1 if
there is any. Code, in fences or backquotes, and addresses are not prose. vale reads the same rules
(``.vale.ini``). Its package downloads a program at the first call, so the checks do not need it.
"""

from __future__ import annotations

import argparse
import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

RULES = Path(__file__).parent / "fractale"
FENCE = re.compile(r"^\s*(```|~~~)")
NOT_PROSE = re.compile(
    r"``.+?``|`[^`\n]*`|<!--.*?-->|<[^>\n]+>|\]\([^)]*\)|https?://\S+|\{\{.*?\}\}|\{[^{}\n]*\}"
)
SENTENCE_END = re.compile(r"(?<=[.!?])[\"')\]*]*\s+(?=[A-Z\"'(\[*]|fractale\b)|:\s")
LIST_ITEM = re.compile(r"^\s*(?:[-*+]|\d+\.)\s+")
FOR_MODELS = re.compile(r"\s*# Sent to models\b")
"""The comment above a text that keeps its wording, since recorded runs are compared with it."""
DIRECTIVE = re.compile(r"#\s*(?:noqa|pyright|type|pragma|ruff|fmt)\b.*|#!.*")


@dataclass(frozen=True, slots=True)
class Passage:
    """A paragraph, a row of a table, a docstring's paragraph or a comment."""

    line: int
    text: str
    is_cell: bool = False


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule file: a pattern, and what to say of a match (or of too many in one sentence)."""

    pattern: re.Pattern[str]
    message: str
    replacement: str = ""
    most: int | None = None
    only_sentences: bool = False

    def findings(self, passage: Passage) -> Iterator[tuple[int, str]]:
        """The line and message of each violation in a passage."""
        if passage.is_cell and self.only_sentences:
            return
        if self.most is not None:
            at = 0
            for sentence in SENTENCE_END.split(passage.text):
                if len(self.pattern.findall(sentence)) > self.most:
                    yield passage.line + passage.text.count("\n", 0, at), self.message
                at = passage.text.find(sentence, at) + len(sentence)
            return
        for match in self.pattern.finditer(passage.text):
            line = passage.line + passage.text.count("\n", 0, match.start())
            found = " ".join(match[0].split())[:60]
            parts = (self.replacement, found) if self.replacement else (found,)
            yield line, self.message % parts


def read_rules(*, words_only: bool) -> list[Rule]:
    """The rules of each file, in the order of the files' names."""
    rules: list[Rule] = []
    for path in sorted(RULES.glob("*.yml")):
        data = yaml.safe_load(path.read_text())
        flags = re.IGNORECASE if data.get("ignorecase") else 0
        if data["extends"] == "substitution":
            for wrong, right in data["swap"].items():
                pattern = re.compile(rf"\b(?:{wrong})\b".replace(" ", r"\s+"), flags)
                rules.append(Rule(pattern, data["message"], right))
        elif data["extends"] == "existence":
            pattern = re.compile("|".join(data["tokens"]), flags | re.MULTILINE)
            rules.append(Rule(pattern, data["message"], only_sentences=True))
        elif not words_only:
            rules.append(Rule(re.compile(data["token"]), data["message"], most=data["max"]))
    return rules


def markdown(text: str) -> Iterator[Passage]:
    """The prose of a page: paragraphs, list items, headings and rows of tables, without code."""
    start, lines, fenced = 1, [], False
    for number, line in enumerate([*text.split("\n"), ""], 1):
        if FENCE.match(line):
            fenced = not fenced
        begins = LIST_ITEM.match(line) or line.startswith(("#", "|"))
        ends = not line.strip() or fenced or FENCE.match(line) or begins
        if ends and lines:
            yield Passage(start, prose("\n".join(lines)))
            lines = []
        if (
            fenced
            or FENCE.match(line)
            or not line.strip()
            or (line.startswith("    ") and not lines)
        ):
            continue
        if line.startswith("|"):
            for cell in prose(line).split("|"):
                yield Passage(number, cell.strip(), is_cell=True)
            continue
        if not lines:
            start = number
        lines.append(line)


def python(text: str) -> Iterator[Passage]:
    """The docstrings, comments and texts with spaces of a module, without texts for models."""
    lines = ["", *text.split("\n")]
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
            if FOR_MODELS.match(lines[node.lineno - 1]):
                continue
            block = re.sub(r"::\n\n(?:[ ]{4,}.*\n|\n)+", "\n\n", node.value)
            block = re.sub(r"(?m)^( +)\w+: ", r"\1X: ", block)  # names of arguments
            line = node.lineno
            for paragraph in re.split(r"(\n\s*\n)", block):
                yield Passage(line, prose(paragraph))
                line += paragraph.count("\n")
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT and not DIRECTIVE.match(token.string):
            yield Passage(token.start[0], prose(token.string.lstrip("# ")))


def prose(text: str) -> str:
    """A text whose code, addresses and markup are blanked; its lines stay where they are."""
    return NOT_PROSE.sub(lambda match: " X " + "\n" * match[0].count("\n"), text)


def files_of(paths: list[Path]) -> Iterator[Path]:
    """Markdown and Python files, in order. Pages among a package's modules are prompts."""
    for path in paths:
        if (path / "__init__.py").exists():
            yield from sorted(path.rglob("*.py"))
        elif path.is_dir():
            yield from sorted([*path.rglob("*.md"), *path.rglob("*.py")])
        else:
            yield path


def main() -> int:
    """Print the findings; returns 1 if there are any."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH")
    parser.add_argument(
        "--words-only", action="store_true", help="Leave out the length of sentences."
    )
    options = parser.parse_args()
    found = 0
    for path in files_of(options.paths):
        is_page = path.suffix == ".md"
        rules = read_rules(words_only=options.words_only or not is_page)
        for passage in (markdown if is_page else python)(path.read_text()):
            for rule in rules:
                for line, message in rule.findings(passage):
                    print(f"{path}:{line}: {message}")
                    found += 1
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
