"""Ask Slurm whether it accepts a script: `sbatch --test-only`, which submits nothing."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from fractale.errors import SchedulerUnavailable
from fractale.schedulers.notation import if_written
from fractale.schedulers.programs import Programs
from fractale.schedulers.script import Script
from fractale.schedulers.slurm.times import read_time, write_time
from fractale.schedulers.validation import SchedulerVerdict

PARTITIONS: Final = "%P|%l"

OUT_OF_REACH: Final = re.compile(
    r"unable to contact|connection (refused|timed out|failure)|socket timed out"
    r"|zero bytes|communication",
    re.IGNORECASE,
)
"""Messages of `sbatch` for errors that are not in the script (slurm_errno.c)."""


async def ask(text: str, script: Script, programs: Programs) -> SchedulerVerdict | str:
    """The verdict of `sbatch --test-only`; or, as text, why it was not asked."""
    if programs.which("sbatch") is None or programs.which("sinfo") is None:
        return ""
    try:
        limits = await _limits(programs)
        if limits is None:
            return "`sinfo` does not answer"
        errors = await _sbatch(text, programs)
    except SchedulerUnavailable as error:
        return str(error)
    if any(OUT_OF_REACH.search(each) for each in errors):
        return errors[0]
    return SchedulerVerdict(
        by="sbatch",
        checks=("sbatch --test-only", "time limit of the partition"),
        refused=tuple(errors),
        errors=_over_limit(script, limits),
    )


async def _limits(programs: Programs) -> Mapping[str, float | None] | None:
    """The time limit of each partition in seconds.

    The default partition's limit also has the key "". None if `sinfo` fails.
    """
    ran = await programs.run("sinfo", "-h", "-o", PARTITIONS)
    if ran.code != 0:
        return None
    limits: dict[str, float | None] = {}
    for line in ran.out.splitlines():
        name, _, limit = line.strip().partition("|")
        limits[name.rstrip("*")] = if_written(read_time, limit)
        if name.endswith("*"):
            limits[""] = if_written(read_time, limit)
    return limits


async def _sbatch(text: str, programs: Programs) -> list[str]:
    """The complaint of `sbatch --test-only`, if there is one."""
    with tempfile.TemporaryDirectory(prefix="fractale-sbatch-") as folder:
        file = Path(folder) / "job.sh"
        file.write_text(text, encoding="utf-8", errors="surrogateescape")
        ran = await programs.run("sbatch", "--test-only", str(file))
    if ran.code == 0:
        return []
    return [f"sbatch says: {ran.complaint.replace(str(file), 'the script')}"]


def _over_limit(script: Script, limits: Mapping[str, float | None]) -> tuple[str, ...]:
    """An error if the script exceeds its partition's limit: sbatch accepts it, but it pends."""
    queues, seconds = script.request.queues or ("",), script.request.seconds
    given = [limits.get(queue) for queue in queues]
    most = max((limit for limit in given if limit), default=0)
    if None in given or not seconds or seconds <= most:
        return ()
    name = f"partition {','.join(queues)}" if queues != ("",) else "default partition"
    asked = "no limit" if seconds == float("inf") else write_time(seconds)
    given_at_most = f"the {name} gives {write_time(most)} at most"
    return (f"it asks for {asked}, {given_at_most}: the job would never start",)
