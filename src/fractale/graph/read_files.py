"""The files that a step names and the programs that it starts, as they are before its call.

The event of the step's end has them, so that a later run can be compared (`fractale why`). A small
file has a checksum of its whole content, a large one of its two ends. Every checksum is keyed by
the state directory, so that the content of a file cannot be guessed from the record.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import os
import shutil
import stat
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, Final

from fractale.errors import CallError, StoreError
from fractale.graph.call import Attempt
from fractale.graph.reuse_key import LONGEST, programs_in, texts_in, words_in
from fractale.plan.expressions import render
from fractale.store.cache import CacheStore
from fractale.store.run_record import RUNS

KINDS_WITH_CALLS: Final = frozenset({"tool", "prompt", "agent", "job", "script"})

MOST_FILES: Final = 64
"""The files of one attempt that are noted."""

MOST_WORDS: Final = 512
"""The words of one attempt's inputs that are compared with files."""

MOST_TEXT: Final = 65_536
"""The characters of an input in which names of files are looked for."""

MOST_WHOLE: Final = 256 * 1024
"""The bytes of a file of which the whole content is read; of a larger one, its two ends."""

END: Final = 32 * 1024

Stamp = list[Any]
"""Of a file: its size, the time of its last change in ns (0 if the checksum is of the whole), and
a checksum."""


def named_by(attempt: Attempt) -> dict[str, dict[str, Stamp]]:
    """The files and programs that the attempt's inputs name. It reads files; it never fails."""
    step, context, made = attempt.step, attempt.context, attempt.deps.made
    if context.run_dir is None or made is None or step.kind not in KINDS_WITH_CALLS:
        return {}
    if step.foreach is not None or not (attempt.inputs or attempt.instruction or step.cache):
        return {}
    patterns: list[str] = []
    with contextlib.suppress(CallError):  # the look-up in the cache reports it
        files = step.cache.files if step.cache else ()
        patterns = [str(render(each, attempt.scope)) for each in files]
    bases = [context.start_dir]
    if folder := attempt.inputs.get("folder"):
        bases.append(context.start_dir / str(folder))
    cache = attempt.deps.cache
    path = (cache.environment if cache else os.environ).get("PATH", os.defpath)
    try:
        return _look(attempt.inputs, attempt.instruction, patterns, bases, made.parent, path)
    except (StoreError, OSError, ValueError):
        return {}  # the key of the checksums cannot be used, as the look-up in the cache reports


def note_prompt(attempt: Attempt, name: str, messages: list[list[str]]) -> None:
    """Note the text of a server's prompt by its checksum. Never fails."""
    made, read = attempt.deps.made, dict(attempt.read or {})
    if made is None:
        return
    with contextlib.suppress(StoreError, OSError):
        size = sum(len(text) for _, text in messages)
        known = [size, 0, _store(made.parent).hash_of(messages)]
        attempt.read = {**read, "prompts": {**read.get("prompts", {}), name: known}}


def _look(
    given: Mapping[str, Any],
    instruction: str | None,
    patterns: list[str],
    bases: list[Path],
    state_dir: Path,
    path: str,
) -> dict[str, dict[str, Stamp]]:
    """Path → stamp of each file, and name → stamp of each program; empty parts are left out."""
    store, runs = _store(state_dir), f"{state_dir.absolute()}/{RUNS}/"
    files: dict[str, Stamp] = {}
    for name in islice(_files([given, instruction], patterns, bases), MOST_WORDS):
        if name in files or name.startswith(runs):  # a run's own files say nothing about causes
            continue
        if (found := stamp(Path(name), store)) is not None:
            files[name] = found
            if len(files) == MOST_FILES:
                break
    programs: dict[str, Stamp] = {}
    for word in sorted(set(islice(programs_in(given), MOST_FILES))):
        where = shutil.which(word, path=path) if word else None
        if where and where not in files and (found := stamp(Path(where), store)) is not None:
            programs[word] = [*found, where]
    parts = {"files": dict(sorted(files.items())), "programs": programs}
    return {name: part for name, part in parts.items() if part}


def _files(values: list[Any], patterns: list[str], bases: list[Path]) -> Iterator[str]:
    """The absolute paths of what may be files."""
    start = bases[0]
    for pattern in patterns:
        absolute = str(start / Path(pattern).expanduser())
        yield from islice(glob.iglob(absolute, recursive=True), MOST_FILES)  # noqa: PTH207 - absolute
    for text in texts_in(values):
        for word in _names(text):
            name = word.removeprefix("file://")
            if name and len(name) <= LONGEST and "\0" not in name and name.strip("./~"):
                for base in bases:
                    yield os.path.abspath(base / Path(name).expanduser())  # noqa: PTH100 - a link counts as itself


def _names(text: str) -> Iterable[str]:
    whole = [text] if len(text) <= LONGEST and "\n" not in text else []
    return dict.fromkeys([*whole, *words_in(text[:MOST_TEXT])])


def stamp(path: Path, store: CacheStore) -> Stamp | None:
    """The stamp of a regular file; None if there is none, or if it cannot be read.

    Raises:
        StoreError: The key of the checksums cannot be read or made.
    """
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            return None
        digest = hashlib.sha256()
        with path.open("rb") as file:
            if found.st_size <= MOST_WHOLE:
                digest.update(file.read(MOST_WHOLE))
                return [found.st_size, 0, store.hash_of(digest.hexdigest())]
            digest.update(file.read(END))
            file.seek(-END, os.SEEK_END)
            digest.update(file.read(END))
    except (OSError, ValueError):
        return None
    return [found.st_size, found.st_mtime_ns, store.hash_of(digest.hexdigest())]


@lru_cache(maxsize=8)
def _store(state_dir: Path) -> CacheStore:
    return CacheStore(state_dir)
