"""Whether a batch script is a translation of another: what its own lines show.

No validator says it: one that knows the target only takes a script without a single directive
for valid, and another manager's directives for comments.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fractale.schedulers.commands import compare_commands
from fractale.schedulers.comparison import comments_of, compare, leftovers
from fractale.schedulers.dialects import (
    dialect_of,
    lines_of,
    plain_script,
    read_script,
    schedulers_of,
)
from fractale.schedulers.homes import NAMES, READ
from fractale.schedulers.script import Loss, Script
from fractale.schedulers.translation import translate


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A script, and another one that is said to be its translation.

    Args:
        source: The manager of the original, as `scheduler_named` gives it; empty if it has none.
        target: The manager that it was translated for.
        no_analogue: What the translator says that the target has nothing for.
    """

    original: str
    script: str
    source: str
    target: str
    no_analogue: Sequence[str] = ()

    def faults(self, *, strict: bool) -> list[str]:
        """What shows that it is none, or a wrong one; empty if nothing does.

        Args:
            strict: Whether options that the target does not know are looked for, too; a
                validator does that better.
        """
        original, translated = self._original(), self._translated()
        found = [*leftovers(original, translated), *compare_commands(original, translated).errors]
        if self.target in NAMES and self.target not in schedulers_of(translated.lines):
            mark = dialect_of(self.target).mark
            missing = f"it has no {mark} line: it is not translated"
            return [missing, *found] if self.source else found
        if self.target not in NAMES:
            return found
        if strict:
            found += [str(each) for each in translated.invalid]
        if not original.scheduler:
            return found
        mentions = [*self.no_analogue, *comments_of(translated)]
        told = [loss for loss in self._losses(original) if not loss.grave]
        differences = compare(original, translated, mentions, told)
        return [*found, *(str(each) for each in differences if not each.minor)]

    def _losses(self, original: Script) -> Sequence[Loss]:
        """What the target has no words for, as far as fractale knows."""
        if not original.scheduler or self.target not in NAMES or self.source == self.target:
            return ()
        return translate(original, self.target).losses

    def _original(self) -> Script:
        if self.source not in READ:
            return plain_script(self.original)
        return read_script(self.original, self.source)

    def _translated(self) -> Script:
        if self.target not in NAMES:
            return plain_script(self.script, self.target)
        return read_script(self.script, self.target)

    def without_counterpart(self) -> list[str]:
        """What the target has nothing for, and nobody mentioned yet."""
        return [
            f"{loss.text or loss.what}: {loss.why}"
            for loss in self._losses(self._original())
            if not self._is_mentioned(loss.text)
        ]

    def _is_mentioned(self, text: str) -> bool:
        flag = text.split("=")[0].split()[:1]
        return bool(flag) and any(flag[0] in each for each in self.no_analogue)


def manager_of(script: str) -> str:
    """Whose directives a script has, the first one's of several; empty if nobody's."""
    return next(iter(schedulers_of(lines_of(script))), "")
