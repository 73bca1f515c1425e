"""``fractale report``: one file that loads nothing and runs nothing but its own script."""

from __future__ import annotations

import hashlib
import os
import re
import stat
import subprocess
import sys
from base64 import b64encode
from html.parser import HTMLParser

import pytest

from fractale.cli import run_command as fractale
from fractale.record.history_reader import read_history
from fractale.report.compare import compare
from fractale.report.write import MOST_WHOLE, report
from made_runs import hostile_run
from recording import Recording, translation


class Parsed(HTMLParser):
    """The elements of a page, and its inline style and script."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.inline: dict[str, str] = {}
        self._inside = ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self._inside = tag

    def handle_data(self, data):
        if self._inside in ("style", "script"):
            self.inline[self._inside] = self.inline.get(self._inside, "") + data

    def handle_endtag(self, tag):
        self._inside = ""

    def of(self, tag: str):
        return [attrs for name, attrs in self.elements if name == tag]


def assert_closed(html: str) -> Parsed:
    """That a page has no source but itself, and only its own script and style."""
    found = Parsed(html)
    [policy] = [m["content"] for m in found.of("meta") if m.get("http-equiv")]
    hashes = [
        f"'sha256-{b64encode(hashlib.sha256(found.inline[kind].encode()).digest()).decode()}'"
        for kind in ("style", "script")
    ]
    assert policy == (
        f"default-src 'none'; style-src {hashes[0]}; script-src {hashes[1]}; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    ids = [attrs["id"] for _, attrs in found.elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    links = {attrs["href"] for tag, attrs in found.elements if tag == "a"}
    assert {link.removeprefix("#") for link in links} <= set(ids)
    for tag, attrs in found.elements:
        assert tag not in ("iframe", "object", "embed", "form", "base", "template"), tag
        assert "style" not in attrs, (tag, attrs)
        assert not [name for name in attrs if name.startswith("on")], attrs
        for name in ("src", "href", "xlink:href", "srcset"):
            assert (attrs.get(name) or "#").startswith(("#", "data:")), attrs
    assert len(found.of("script")) == 1
    return found


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FRACTALE_STATE_DIR", str(tmp_path / "state"))
    return tmp_path


def test_a_file_is_named_after_the_run_and_may_be_replaced(place, capsys):
    translation(place / "state")
    assert fractale(["report", "-1"]) == 0
    file = place / "k7f3a.html"
    assert capsys.readouterr() == ("", "wrote k7f3a.html\n")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    html = file.read_text(encoding="utf-8")
    assert_closed(html)
    assert "Translate a script" in html
    assert fractale(["report", "k7f3a"]) == 0, "an older report is replaced"
    file.write_text("<html>notes about a run</html>")
    assert fractale(["report", "k7f3a"]) == 2
    assert "exists and is not a report" in capsys.readouterr().err
    assert file.read_text() == "<html>notes about a run</html>"
    assert fractale(["report", "k7f3a", "-o", "-"]) == 0
    assert capsys.readouterr().out.startswith("<!doctype html>")
    assert fractale(["report", "k7f3a", "-o", "missing/x.html"]) == 2
    assert "cannot write missing/x.html: No such file or directory\n" in capsys.readouterr().err
    assert fractale(["report", "none"]) == 2


def test_every_text_of_a_hostile_run_is_text(tmp_path):
    record = hostile_run(tmp_path / "state", long_line=3_000_000)
    html = report([read_history(record)])
    assert_closed(html)
    assert len(html) < 4_000_000
    odd = {c for c in html if not c.isprintable() and c not in "\n\u200c\u200d"}
    assert not odd


def test_no_engine_is_imported(place):
    translation(place / "state")
    code = (
        "import sys; from fractale.cli import run_command\n"
        "assert run_command(['report', '-1', '-o', 'r.html']) == 0\n"
        "engines = ('langgraph', 'langchain', 'langchain_core', 'mcp', 'fastmcp', 'pydantic')\n"
        "print([name for name in sys.modules if name.partition('.')[0] in engines])\n"
        "run_command(['report', '-1', '-o', '-'])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=True, encoding="utf-8",
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )  # fmt: skip
    first, _, page = done.stdout.partition("\n")
    assert first == "[]"
    assert "✓" in page, "a page is UTF-8 also where the terminal is not"


# -- several runs ---------------------------------------------------------------------------------


def test_two_runs_are_compared(tmp_path):
    one = translation(tmp_path).folder
    other = translation(
        tmp_path, "m2q9b", inputs={"script": "big.sbatch"},
        parent={"run": "k7f3a", "step": "validate", "attempt": 1},
    ).folder  # fmt: skip
    histories = [read_history(one), read_history(other)]
    found = compare(histories, {"k7f3a": "k7f3a-", "m2q9b": "m2q9b-"})
    assert "m2q9b was forked from k7f3a at validate" in found.head
    assert "inputs.script" in found.columns
    assert any(each.place == "inputs.script" for each in found.differences)
    html = report(histories)
    assert_closed(html)
    assert 'id="k7f3a-step-transform"' in html
    assert 'id="m2q9b-step-transform"' in html


def test_two_texts_are_compared_line_by_line(tmp_path):
    script = ["#!/bin/bash", "#SBATCH -N 2", "module load lammps", "srun lmp"]
    changed = [script[0], "#SBATCH -N 4", *script[2:], "echo <b>"]
    long = ["\n".join(f"{begin} {i}" for i in range(300)) for begin in "ab"]
    histories = []
    for run_id, lines, log in zip(("k7f3a", "m2q9b"), (script, changed), long, strict=True):
        run = Recording(
            tmp_path,
            run_id,
            inputs={"script": "\n".join(lines), "log": log, "line": log[:1] * 200},
        )
        run.start("trial").visit("trial")
        run.end(usage={"seconds": 2.0, "total_tokens": 0, "cost": 0.0})
        histories.append(read_history(run.folder))
    found = compare(histories, {})
    assert not {"tokens", "cost", "node-hours"} & set(found.columns)
    places = {each.place: each for each in found.differences}
    assert places["inputs.script"].lines == (
        ("@@ -1,4 +1,5 @@", "dim"),
        (" #!/bin/bash", "dim"),
        ("-#SBATCH -N 2", "removed"),
        ("+#SBATCH -N 4", "added"),
        (" module load lammps", "dim"),
        (" srun lmp", "dim"),
        ("+echo <b>", "added"),
    )
    assert [mark for _, mark in places["inputs.line"].lines] == ["dim", "removed", "added"]
    last = places["inputs.log"].lines[-1]
    assert last == ("… 401 more lines: fractale diff k7f3a m2q9b --full", "dim")
    html = report(histories)
    assert '<span class="added">+#SBATCH -N 4</span>\n' in html
    assert '<span class="added">+echo &lt;b&gt;</span>\n' in html
    assert_closed(html)


def test_a_sweep_has_a_table_of_all_plots_and_reasons(tmp_path):
    histories = []
    for i in range(MOST_WHOLE + 5):
        run = Recording(tmp_path, f"r{i:02}", inputs={"skin": i / 10, "same": 1})
        run.start("trial").visit("trial")
        if i % 5:
            run.end(outputs={"rate": 100 - (i - 9) ** 2})
        else:
            decided = {"step": "trial", "by": "error", "reason": "no memory"}
            run.end("failed", error="no memory", decided=decided)
        histories.append(read_history(run.folder))
    html = report(histories)
    found = compare(histories, {})
    assert [row.run for row in found.rows][:2] == ["r00", "r01"]
    assert [
        name for name, differs in zip(found.columns, found.differs, strict=True) if differs
    ] == [
        *("started",) * ("started" in found.columns and found.differs[1]),
        "state",
        "inputs.skin",
        "outputs.rate",
    ]
    [plot] = found.plots
    assert (plot.title, plot.x_label) == ("outputs.rate", "inputs.skin")
    [reason] = found.reasons
    assert len(reason.runs) == 5
    assert_closed(html)
    assert f"The first {MOST_WHOLE} of 25 runs are below in detail." in html
    assert not re.search(r'href="#r24-run"', html)
