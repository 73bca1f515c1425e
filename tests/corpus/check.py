"""How well real batch scripts are read, translated and validated: `make corpus FOLDER=…`.

    .venv/bin/python tests/corpus/check.py FOLDER [--sample N --seed S] [--to flux,slurm,pbs,lsf]

FOLDER holds batch scripts, in any folders below it, such as a clone of
https://github.com/converged-computing/jobspec-database. For each scheduler that scripts are of,
and each that they are written for, it prints:

- read: scripts that could be read; what their own manager would refuse beside it;
- translated; *valid* of these, by the oracle: Flux's own parsers (flux-python, in `.venv-flux`),
  `sbatch --test-only` where a Slurm answers (what a site lacks is not the script's fault), else
  fractale's own reading of the translation (then it says `lines`);
- facts: translations that ask for the same nodes, tasks, cores, GPUs, time and queue as an
  independent reader finds in the original: a few regular expressions of this file, that know
  nothing of fractale's, and look only at the plainest of forms;
- losses told, and those that are *untold*: what the translation, read again, does not ask for, and
  no loss tells. Examples below the table show which of the told ones the dialect itself did not
  tell, but the comparison of both scripts that `translate` ends with;
- accepted: translations that pass the validation of the shipped plan, which compares both scripts
  with what the translation tells (no scheduler is asked here);
- grave: translations that the shipped plan refuses without `lossy`;
- round trip: A → B → A asks for the same in all that B could say;
- ms: to read and translate a script, the median and the mean of the processor's time.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import json
import os
import random
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fractale.schedulers.comparison import compare
from fractale.schedulers.dialects import dialect_of, lines_of, read_script, schedulers_of
from fractale.schedulers.homes import NAMES
from fractale.schedulers.script import Loss
from fractale.schedulers.translation import NOT_SAID, Translation, translate
from fractale.schedulers.validation import against_original, validate_lines
from fractale.tools.batch import translate_batch_script

ROOT = Path(__file__).parents[2]
OF_TASKS = ("tasks", "tasks_per_node")
LARGEST = 256 * 1024
SHOWN = 5

FLUX_ORACLE = """\
import contextlib, io, json, sys
from flux.cli.batch import BatchCmd
from flux.job.directives import DirectiveParser
out = sys.stdout
for line in sys.stdin:
    text, error, said = json.loads(line), "", io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            batch = BatchCmd("flux batch")
            batch.argv = ["job.sh"]
            parsed = DirectiveParser(io.StringIO(text))
            batch.script, args = batch.parse_directive_args("x", parsed)
            batch.init_jobspec(args)
        except SystemExit:
            error = said.getvalue().strip().splitlines()[-2:] or "refused"
        except Exception as problem:
            error = str(problem) or type(problem).__name__
    print(json.dumps(error), file=out, flush=True)
"""


def main() -> int:
    """Check the scripts of a folder, and print what came of it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("folder", type=Path, help="where the scripts are")
    parser.add_argument("--sample", type=int, default=1000, help="how many; 0 for all")
    parser.add_argument("--seed", type=int, default=1, help="which ones are drawn")
    parser.add_argument("--to", default=",".join(NAMES), help="schedulers to write for")
    parser.add_argument("--from", dest="source", default="", help="only scripts of these")
    parser.add_argument("--show", type=int, default=SHOWN, help="examples of each fault")
    parser.add_argument("--no-sbatch", action="store_true", help="do not ask a Slurm")
    given = parser.parse_args()
    check = Check(given.show, oracles(use_sbatch=not given.no_sbatch))
    files = find(given.folder, given.source.split(",") if given.source else [])
    chosen = files
    if 0 < given.sample < len(files):
        chosen = sorted(random.Random(given.seed).sample(files, given.sample))
    print(f"{len(files)} scripts in {given.folder}, {len(chosen)} looked at (seed {given.seed})")
    for file in chosen:
        check.script(file, given.to.split(","))
    check.report()
    return 0


def find(folder: Path, sources: Sequence[str]) -> list[Path]:
    """Files with a directive of a scheduler, each text once."""
    found: dict[int, Path] = {}
    for file in sorted(folder.rglob("*")):
        if ".git" in file.parts or not file.is_file() or file.stat().st_size > LARGEST:
            continue
        text = file.read_bytes().decode("utf-8", errors="surrogateescape")
        if "\0" in text:
            continue
        owners = schedulers_of(lines_of(text))
        if owners and (not sources or owners[0] in sources):
            found.setdefault(hash(text), file)
    return list(found.values())


# -- oracles ------------------------------------------------------------------------------------


class Flux:
    """Flux's own parsers, in one process for all scripts."""

    name = "flux-python"

    def __init__(self, path: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", FLUX_ORACLE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": path},
        )

    def says(self, text: str) -> str:
        """Why it refuses the script; empty if it takes it."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(text) + "\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline())
        return answer if isinstance(answer, str) else "; ".join(answer)


class Sbatch:
    """`sbatch --test-only`; that this site lacks a partition, an account or nodes is no fault."""

    name = "sbatch"
    of_site = re.compile(r"allocation failure|invalid generic resource", re.IGNORECASE)

    def says(self, text: str) -> str:
        """Why it refuses the script; empty if it takes it."""
        with tempfile.NamedTemporaryFile("w", suffix=".sh", errors="surrogateescape") as file:
            file.write(text)
            file.flush()
            words = ["sbatch", "--test-only", file.name]
            said = subprocess.run(words, capture_output=True, text=True, check=False)
        if said.returncode == 0 or self.of_site.search(said.stderr):
            return ""
        return said.stderr.strip().replace(file.name, "it") or "refused"


def oracles(*, use_sbatch: bool) -> dict[str, Any]:
    """Scheduler → who says whether a script of it is valid."""
    found: dict[str, Any] = {}
    path = f"{ROOT / 'tests/support/flux_without_library'}:{ROOT / '.venv-flux'}"
    if (ROOT / ".venv-flux" / "flux").is_dir():
        found["flux"] = Flux(path)
    if use_sbatch and shutil.which("sbatch") and shutil.which("sinfo"):
        asked = subprocess.run(["sinfo", "-h"], capture_output=True, check=False)
        found |= {"slurm": Sbatch()} if asked.returncode == 0 else {}
    return found


# -- an independent reader ----------------------------------------------------------------------

PLAIN: Mapping[str, Mapping[str, str]] = {
    "slurm": {
        "nodes": r"(?:--nodes[= ]|-N[ =]?)(\d+)",
        "tasks": r"(?:--ntasks[= ]|-n[ =]?)(\d+)",
        "seconds": r"(?:--time[= ]|-t[ =]?)(\d+:\d\d:\d\d)",
    },
    "flux": {
        "nodes": r"(?:--nodes[= ]|-N[ =]?)(\d+)",
        "tasks": r"(?:--nslots[= ]|-n[ =]?)(\d+)",
    },
    "pbs": {
        "nodes": r"-l *nodes=(\d+)(?=[:,\s]|$)(?!.*\+)",
        "seconds": r"-l *(?:.*,)?walltime=(\d+:\d\d:\d\d)",
    },
    "lsf": {"tasks": r"-n +(\d+)", "seconds": r"-W +(\d+:\d\d)"},
}
MARKS = {"slurm": "#SBATCH", "flux": "#FLUX:", "pbs": "#PBS", "lsf": "#BSUB"}


def plain_facts(lines: Sequence[str], scheduler: str) -> dict[str, int]:
    """What the plainest directives of the header say: one option a line, and each once."""
    found: dict[str, list[int]] = collections.defaultdict(list)
    for line in lines:
        if line.strip() and not line.lstrip().startswith("#"):
            break
        mark = MARKS[scheduler]
        if not line.startswith(f"{mark} ") and not line.startswith(f"{mark}\t"):
            continue
        text = line[len(mark) :].partition(" #")[0].strip()
        for name, pattern in PLAIN[scheduler].items():
            matched = re.fullmatch(pattern, text) if scheduler != "pbs" else re.match(pattern, text)
            if matched:
                found[name].append(_number(matched[1], scheduler))
            elif re.match(pattern.partition("(\\d")[0].partition("(?:.*")[0], text):
                found[name].append(-1)
    return {name: values[0] for name, values in found.items() if len(values) == 1 and values[0] > 0}


def _number(text: str, scheduler: str) -> int:
    parts = [int(part) for part in text.split(":")]
    if len(parts) == 1:
        return parts[0]
    if scheduler == "lsf":
        parts.append(0)
    return parts[0] * 3600 + parts[1] * 60 + parts[2]


# -- the check ----------------------------------------------------------------------------------


@dataclasses.dataclass
class Row:
    """What came of the scripts of one scheduler for another."""

    counts: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    times: list[float] = dataclasses.field(default_factory=list)
    faults: dict[str, list[str]] = dataclasses.field(
        default_factory=lambda: collections.defaultdict(list)
    )


class Check:
    """Counts what came of scripts."""

    def __init__(self, shown: int, oracles: Mapping[str, Any]) -> None:
        self.shown = shown
        self.oracles = oracles
        self.read: dict[str, collections.Counter[str]] = collections.defaultdict(
            collections.Counter
        )
        self.rows: dict[tuple[str, str], Row] = collections.defaultdict(Row)

    def script(self, file: Path, targets: Sequence[str]) -> None:
        """Read a script, and write it for each of the targets."""
        text = file.read_bytes().decode("utf-8", errors="surrogateescape")
        source = schedulers_of(lines_of(text))[0]
        counts = self.read[source]
        counts["scripts"] += 1
        try:
            parsed = read_script(text, source)
        except Exception as error:  # noqa: BLE001 - a crash is what is looked for
            counts["crashes"] += 1
            print(f"CRASH {file}: {type(error).__name__}: {error}")
            return
        counts["read"] += 1
        counts["refused by its own"] += bool(parsed.invalid)
        for target in targets:
            if target != source:
                self.direction(file, text, source, target)

    def direction(self, file: Path, text: str, source: str, target: str) -> None:
        """Write a script for one target."""
        row = self.rows[source, target]
        row.counts["scripts"] += 1
        start = time.process_time()
        try:
            parsed = read_script(text, source)
            translation = translate(parsed, target)
        except Exception as error:  # noqa: BLE001 - a crash is what is looked for
            row.counts["crashes"] += 1
            print(f"CRASH {file} to {target}: {type(error).__name__}: {error}")
            return
        row.times.append(1000 * (time.process_time() - start))
        row.counts["translated"] += 1
        row.counts["losses told"] += len(translation.losses)
        row.counts["grave"] += bool(translation.grave)
        self.validity(row, file, target, translation)
        self.facts(row, file, translation)
        self.losses(row, file, translation)
        self.accepted(row, file, text, translation)
        self.back(row, file, translation)

    def validity(self, row: Row, file: Path, target: str, translation: Translation) -> None:
        """Ask the oracle, or the script's own lines."""
        own = "; ".join(map(str, translation.script.invalid))
        why = self.oracles[target].says(translation.text) if target in self.oracles else own
        row.counts["valid"] += not why
        row.counts["valid by its lines"] += not own
        if why:
            self.fault(row, "invalid", file, why)

    def facts(self, row: Row, file: Path, translation: Translation) -> None:
        """Compare with the independent reader."""
        source = translation.original.scheduler
        plain = plain_facts(translation.original.lines, source) if source in PLAIN else {}
        request, lost = translation.script.request, {loss.what for loss in translation.losses}
        totals = request.totals()
        mine = {"nodes": totals.nodes, "tasks": totals.tasks, "seconds": request.seconds}
        cores = translation.original.request.totals().cores
        for name, value in plain.items():
            same = mine[name] == value or name in lost
            if name == "seconds" and not same:
                same = abs((mine[name] or 0) - value) < 60
            if name == "tasks" and not same:  # slots are room for them
                same = totals.cores == cores
            row.counts["facts"] += 1
            row.counts["facts equal"] += same
            if not same:
                self.fault(row, "facts", file, f"{name}: {mine[name]}, plainly {value}")

    def losses(self, row: Row, file: Path, translation: Translation) -> None:
        """Look for losses that nobody told."""
        parsed, losses = translation.original, translation.losses
        known = [*losses, *(Loss(line=0, text="", what=each, why="") for each in translation.said)]
        silent = [
            each
            for each in compare(parsed, translation.script, known=known)
            if not each.minor and not any(loss.why == each.why for loss in losses)
        ]
        row.counts["untold"] += len(silent)
        for each in silent:
            self.fault(row, "untold", file, f"{each.what}: {each.why}")
        for each in losses:
            if each.why == NOT_SAID or each.why.startswith("it asks for"):
                row.counts["by comparison"] += 1
                self.fault(row, "told by the comparison only", file, str(each))

    def accepted(self, row: Row, file: Path, text: str, translation: Translation) -> None:
        """Validate as the plan does, with the original and all that is told."""
        source, target = translation.original.scheduler, translation.script.scheduler
        told = translate_batch_script(text, target, from_manager=source, lossy=True)["told"]
        compared = against_original(
            translation.script, text, told, strict=False, from_manager=source
        )
        errors = compared.errors or validate_lines(translation.text, target).errors
        bare = not compared.errors and not schedulers_of(translation.script.lines)
        row.counts["accepted"] += bare or not errors
        row.counts["looked at"] += bool(compared.warnings)
        if errors and not bare:
            self.fault(row, "refused by the plan's validation", file, errors[0])

    def back(self, row: Row, file: Path, translation: Translation) -> None:
        """Translate back: all that the target could say comes back."""
        first = translation.original
        if first.scheduler not in NAMES:
            return
        row.counts["asked back"] += 1
        back = translate(translation.script, first.scheduler)
        lost = {loss.what for loss in (*translation.losses, *back.losses)}
        lost |= translation.said | back.said
        slots = dialect_of(translation.script.scheduler).slots  # these have room for tasks
        told = [Loss(line=0, text="", what=field, why="") for field in lost]
        found = [
            each
            for each in compare(first, back.script, known=told)
            if each.what and not each.minor and not (slots and each.what in OF_TASKS)
        ]
        row.counts["round trips"] += not found
        if found:
            self.fault(row, "round trip", file, "; ".join(map(str, found)))

    def fault(self, row: Row, kind: str, file: Path, why: str) -> None:
        """Keep an example."""
        row.faults[kind].append(f"{file}: {why[:300]}")

    def report(self) -> None:
        """Print the figures, then examples of what is wrong."""
        for source, counts in sorted(self.read.items()):
            print(f"{source}: {', '.join(f'{name} {count}' for name, count in counts.items())}")
        print()
        head = (
            "from → to",
            "scripts",
            "transl.",
            "valid",
            "by",
            "facts",
            "told",
            "untold",
            "accepted",
        )
        print(_columns([*head, "grave", "round trip", "ms median", "mean"]))
        for (source, target), row in sorted(self.rows.items()):
            count, scripts = row.counts, row.counts["scripts"]
            by = self.oracles[target].name if target in self.oracles else "lines"
            times = row.times or [0.0]
            print(
                _columns(
                    [
                        f"{source} → {target}",
                        str(scripts),
                        str(count["translated"]),
                        _share(count["valid"], scripts),
                        by,
                        _share(count["facts equal"], count["facts"]),
                        str(count["losses told"]),
                        str(count["untold"]),
                        _share(count["accepted"], scripts),
                        _share(count["grave"], scripts),
                        _share(count["round trips"], count["asked back"]),
                        f"{statistics.median(times):.2f}",
                        f"{statistics.mean(times):.2f}",
                    ]
                )
            )
        for (source, target), row in sorted(self.rows.items()):
            for kind, faults in sorted(row.faults.items()):
                print(f"\n{source} → {target}: {kind}, {len(faults)}")
                for line in faults[: self.shown]:
                    print(f"  {line}")


def _columns(cells: Sequence[str]) -> str:
    widths = (14, 8, 8, 14, 12, 14, 7, 7, 14, 14, 14, 10, 6)
    return "".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()


def _share(part: int, whole: int) -> str:
    return f"{part} {100 * part / whole:.1f}%" if whole else "-"


if __name__ == "__main__":
    sys.exit(main())
