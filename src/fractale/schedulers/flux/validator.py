"""Ask Flux whether it accepts a script: `flux batch --dry-run`, or Flux's own parsers."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

from fractale.errors import SchedulerUnavailable
from fractale.programs import ProgramResult
from fractale.schedulers.programs import Programs
from fractale.schedulers.script import Script
from fractale.schedulers.validation import SchedulerVerdict

PARSERS: Final = """\
import contextlib, io, json, sys
answer = {"missing": "", "errors": []}
with contextlib.redirect_stdout(sys.stderr):
    text = open(sys.argv[1], encoding="utf-8", errors="surrogateescape").read()
    try:
        from flux.cli.batch import BatchCmd
        from flux.job.directives import DirectiveParser
    except Exception as error:
        answer["missing"] = str(error) or type(error).__name__
    else:
        try:
            batch = BatchCmd("flux batch")
            batch.argv = ["job.sh"]
            parsed = DirectiveParser(io.StringIO(text))
            batch.script, args = batch.parse_directive_args("the script", parsed)
            batch.init_jobspec(args)
        except SystemExit:
            answer["errors"] = [""]
        except Exception as error:
            answer["errors"] = [str(error) or type(error).__name__]
        try:
            from flux_mcp.validate import flux_validate_batch_jobspec
        except Exception:
            pass
        else:
            answer["mcp"] = bool(flux_validate_batch_jobspec(text)["valid"])
print(json.dumps(answer))
"""
"""Runs in a separate process: its imports write to stdout, and open a shell on some failures.

It does what `flux batch` does before it submits (flux-core 0.88, flux/cli/batch.py).
"""


async def ask(text: str, script: Script, programs: Programs) -> SchedulerVerdict | str:
    """Flux's verdict on a script; or, as text, why Flux was not asked."""
    del script
    with tempfile.TemporaryDirectory(prefix="fractale-flux-") as folder:
        file = Path(folder) / "job.sh"
        file.write_text(text, encoding="utf-8", errors="surrogateescape")
        try:
            if programs.which("flux"):
                return _verdict(await programs.run("flux", "batch", "--dry-run", str(file)), file)
            ran = await programs.run(sys.executable, "-c", PARSERS, str(file))
        except SchedulerUnavailable as error:
            return str(error)
    try:
        answer: dict[str, Any] = json.loads(ran.out.rstrip().rpartition("\n")[2])
    except ValueError:
        return f"Flux's parsers gave no answer: {ran.complaint}"
    if answer["missing"]:
        return answer["missing"]
    errors: list[str] = answer["errors"]
    # Flux's own verdict is final; flux-mcp is only named, if it is installed and agrees.
    agreed = answer.get("mcp") is (not errors)
    return SchedulerVerdict(
        by="flux-mcp" if agreed else "flux-python",
        checks=("Flux's own parsers of directives and options",),
        refused=tuple(f"Flux says: {_reason(each, ran.err)}" for each in errors),
    )


def _verdict(ran: ProgramResult, file: Path) -> SchedulerVerdict:
    said = ran.complaint.replace(str(file), "the script")
    return SchedulerVerdict(
        by="flux",
        checks=("flux batch --dry-run",),
        refused=() if ran.code == 0 else (f"Flux says: {said}",),
    )


def _reason(error: str, log: str) -> str:
    """The error, or the message that Flux's option parser printed before it exited."""
    if error:
        return error.partition("\n\n")[0]
    lines = [line.partition(": error: ")[2] for line in log.splitlines() if ": error: " in line]
    where = [line for line in log.splitlines() if line.startswith("argument parsing failed")]
    return "; ".join([*lines[:1], *where[:1]]) or "it cannot be read"
