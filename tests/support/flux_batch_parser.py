"""What flux batch itself reads in scripts: run as a program with flux-python on its path.

It reads a JSON list of scripts on stdin and writes a list of answers: ``{"refused": ...}``, or the
options as flux batch has them after the script's directives, with ``duration`` of the jobspec.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys

from flux.cli.batch import BatchCmd  # pyright: ignore
from flux.job.directives import DirectiveParser  # pyright: ignore


def options_of(script: str) -> dict[str, object]:
    """What flux batch makes of a script."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            command = BatchCmd("flux batch")
            command.argv = []
            parsed = DirectiveParser(io.StringIO(script))
            command.script, args = command.parse_directive_args("script", parsed)
            args.SCRIPT = ["script"]
            found = dict(vars(args), conf=None)
            jobspec = command.jobspec_create(args)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever Flux has against it
        return {"refused": f"{error} {said.getvalue()}"}
    return {**found, "duration": jobspec.duration or 0}


def main() -> None:
    """Answer for the scripts on stdin."""
    json.dump([options_of(script) for script in json.load(sys.stdin)], sys.stdout)


if __name__ == "__main__":
    main()
