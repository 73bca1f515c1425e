"""Tools for batch scripts: read one, check claims about it, translate it, validate it.

The evidence is always the script's own lines, parsed by the rules of its scheduler.
"""

from __future__ import annotations

import dataclasses
import glob
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from fractale.paths import takes_paths
from fractale.schedulers.dialects import dialect_of, read_script
from fractale.schedulers.facts import (
    contradiction,
    directive_of,
    facts_of,
    facts_set_by,
    with_facts,
)
from fractale.schedulers.homes import NAMES
from fractale.schedulers.script import Directive, Loss, Script
from fractale.schedulers.translation import Translation, translate
from fractale.schedulers.validation import WITH_ORIGINAL, against_original, validate_lines

PARSER = "the parser"

MOST_FILES = 10_000


def read_batch_script(script: str, manager: str | None = None) -> dict[str, Any]:
    """Read the directives of a Slurm, Flux, PBS or LSF batch script.

    Args:
        script: The script's text.
        manager: The script's manager; by default that of its first directive.

    Returns:
        ``manager``; ``facts``, the job's requirements in terms common to all managers (``nodes``,
        ``tasks``, ``seconds``, ``queue``, …); ``totals`` of the whole job; ``directives``, each
        with its line; ``without_counterpart``, those that other managers cannot express in full,
        with the reason; ``invalid``, the reasons why its manager refuses it; and ``remarks``,
        unexpected effects of the script at its manager.

    Raises:
        ValueError: The text has no directives.
    """
    parsed = read_script(script, manager)
    return {
        "manager": parsed.scheduler,
        "facts": facts_of(parsed.request),
        "totals": dict(parsed.request.totals().as_dict()),
        "directives": [_directive(each) for each in parsed.reading.directives],
        "without_counterpart": [
            _directive(each) for each in parsed.reading.directives if each.untold or each.invalid
        ],
        "invalid": [str(each) for each in parsed.invalid],
        "remarks": [str(each) for each in parsed.reading.remarks],
    }


def _directive(directive: Directive) -> dict[str, Any]:
    """Return a directive as JSON; `problem` says why other managers cannot express it."""
    found = directive.as_dict()
    untold, invalid = found.pop("untold", ""), found.get("invalid", "")
    return {**found, "problem": untold or invalid} if untold or invalid else found


# -- many scripts -------------------------------------------------------------------------------


@takes_paths("scripts")
def find_batch_scripts(
    scripts: str | list[str],
    to_manager: str = "flux",
    output: str = "",
    default_folder: str = ".",
) -> dict[str, Any]:
    """Find batch scripts by name or by pattern, and name the files of their translations.

    Args:
        scripts: A file, a pattern such as ``jobs/*.sbatch``, or a list of them (also as JSON);
            ``**`` matches any directories.
        to_manager: The manager to translate for; its name is part of the new file names.
        output: The file to write for a single script, or a directory (one that exists, or a name
            that ends with ``/``).
        default_folder: The directory if `output` is empty.

    Returns:
        ``count``, and ``scripts``: ``file`` and ``output`` of each, each file once.

    Raises:
        ValueError: A file does not exist, a pattern matches none, one `output` file is named for
            several scripts, or it is one of the scripts.
    """
    names = _listed(scripts) if isinstance(scripts, str) else scripts
    files = list(dict.fromkeys(file for name in names for file in _matches(name)))
    if not files:
        raise ValueError("no batch script was named")
    if len(files) > MOST_FILES:
        raise ValueError(f"{len(files)} files match; at most {MOST_FILES} are translated at once")
    outputs = _outputs(files, to_manager, output, default_folder)
    for file in files:
        if any(_is_same(file, each) for each in outputs):
            raise ValueError(f"the translation would overwrite {file}: name another `output`")
    found = [{"file": file, "output": into} for file, into in zip(files, outputs, strict=True)]
    return {"count": len(found), "scripts": found}


def _listed(scripts: str) -> list[str]:
    """The names in a text: a JSON list, as from the command line, or one name."""
    if not scripts.startswith("["):
        return [scripts]
    try:
        names: Any = json.loads(scripts)
    except ValueError:
        return [scripts]
    listed = cast("list[Any]", names) if isinstance(names, list) else []
    return listed if listed and all(isinstance(each, str) for each in listed) else [scripts]


def _matches(name: str) -> list[str]:
    path = Path(name).expanduser()
    if path.is_file() or not glob.has_magic(name):
        return [str(path)]  # the tool that reads the file reports the error
    matched = glob.glob(str(path), recursive=True)  # noqa: PTH207 - an absolute pattern, too
    found = sorted(each for each in matched if Path(each).is_file())
    if not found:
        raise ValueError(f"no file matches `{name}` (working directory: {Path.cwd()})")
    return found


def _outputs(files: Sequence[str], to_manager: str, output: str, default: str) -> list[str]:
    directory = Path(output or default).expanduser()
    if len(files) == 1 and not output:
        return [str(directory / f"job.{to_manager}.sh")]
    if output and not output.endswith("/") and not directory.is_dir():
        if len(files) == 1:
            return [str(directory)]
        raise ValueError(
            f"`{output}` is not a directory, and {len(files)} scripts are to be written: name a "
            "directory in `output`, with a `/` at its end if it is to be made"
        )
    taken: set[str] = set()
    return [str(directory / _free_name(Path(file).stem, to_manager, taken)) for file in files]


def _free_name(stem: str, to_manager: str, taken: set[str]) -> str:
    """Choose a name that no script with the same name in another directory has."""
    name, number = f"{stem}.{to_manager}.sh", 1
    while name in taken:
        number += 1
        name = f"{stem}-{number}.{to_manager}.sh"
    taken.add(name)
    return name


def _is_same(first: str, second: str) -> bool:
    return Path(first).resolve() == Path(second).resolve()


def summarize_translations(
    scripts: list[dict[str, Any]], results: list[dict[str, Any]]
) -> dict[str, Any]:
    """Sum up the translations of batch scripts.

    Args:
        scripts: As `find_batch_scripts` gives them.
        results: The result for each script, in the same order: ``jobspec``, ``lost``, ``notes``,
            ``remains``, ``validated_by``, ``note`` and ``file``, or ``error``.

    Returns:
        ``summary``, one line per script and one for all; ``translated`` and ``failed``, the
        counts; ``jobspec``, ``lost``, ``notes``, ``validated_by``, ``note`` and ``file``, for all
        scripts together.
    """
    lines = [_line(each["file"], result) for each, result in zip(scripts, results, strict=True)]
    done = [result for result in results if _is_done(result)]
    failed = len(results) - len(done)
    if len(scripts) > 1:
        lost = sum(1 for result in done if result.get("lost"))
        lines.append(
            f"{len(done)} of {len(results)} translated, {lost} with losses, {failed} failed"
        )
    named = {
        key: list(dict.fromkeys(str(result.get(key) or "") for result in done))
        for key in ("validated_by", "note")
    }
    told = {
        key: [
            f"{each['file']}: {text}" if len(scripts) > 1 else text
            for each, result in zip(scripts, results, strict=True)
            if _is_done(result)
            for text in result.get(key) or ()
        ]
        for key in ("lost", "notes")
    }
    return {
        "summary": lines,
        "translated": len(done),
        "failed": failed,
        "jobspec": done[0]["jobspec"] if len(scripts) == 1 else "",
        "lost": "\n".join(told["lost"]),
        "notes": "\n".join(told["notes"]),
        "validated_by": ", ".join(filter(None, named["validated_by"])),
        "note": "\n".join(filter(None, named["note"])),
        "file": "\n".join(str(result.get("file") or "") for result in done),
    }


def _is_done(result: Mapping[str, Any]) -> bool:
    """Whether a script was translated, validated and written. A failure may have some outputs."""
    return "jobspec" in result and not result.get("error")


def _line(file: str, result: Mapping[str, Any]) -> str:
    if not _is_done(result):
        return f"{file}: failed: {str(result.get('error') or 'no reason given').splitlines()[0]}"
    lost, remains = len(result.get("lost") or ()), len(result.get("remains") or ())
    remarks = [f"{lost} lost"] * bool(lost) + [f"{remains} commands to change"] * bool(remains)
    return f"{file} → {result['file']}: {', '.join(['valid', *remarks])} ({result['validated_by']})"


# -- claims -------------------------------------------------------------------------------------


def check_directives(
    script: str,
    claimed: dict[str, Any],
    required: list[str] | None = None,
    source: str = "model",
    kept: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Check claims about a batch script against its own lines, and keep those that are right.

    Args:
        script: The script's text.
        claimed: The claimed value of each option, such as ``{"ntasks": 64, "time": "1:00:00"}``.
        required: Options that the claim must include; without it, an empty claim is valid.
        source: The author of the claim, for the record.
        kept: An earlier answer of this tool for the same script; its right facts stay right.

    Returns:
        ``valid`` (whether every claim, now or earlier, is right), ``facts`` and ``supplied_by``
        for the right ones, ``missing`` (the names that are still wrong), and, if there are
        any, ``error``: the values in the script's lines.

    Raises:
        ValueError: The script has no directives.
    """
    parsed = read_script(script)
    said = facts_of(parsed.request)
    facts: dict[str, Any] = dict((kept or {}).get("facts") or {})
    supplied_by: dict[str, str] = dict((kept or {}).get("supplied_by") or {})
    wrong: dict[str, str] = {}
    for name, value in {**dict.fromkeys(required or []), **claimed}.items():
        directive = directive_of(parsed, name)
        sets = facts_set_by(directive, said) if directive else []
        if sets and all(fact in facts for fact in sets):
            continue
        if reason := contradiction(parsed, directive, name, value):
            wrong[name] = reason
        for fact in sets if name not in wrong else []:
            facts[fact] = said[fact]
            supplied_by[fact] = source
    answer = {
        "valid": not wrong,
        "facts": facts,
        "supplied_by": supplied_by,
        "missing": list(wrong),
    }
    return {**answer, "error": ", ".join(wrong.values())} if wrong else answer


def take_over_directives(
    script: str, missing: list[str], kept: dict[str, Any], source: str = PARSER
) -> dict[str, Any]:
    """Read the remaining options of a batch script by parser, after a model's claims.

    Args:
        script: The script's text.
        missing: Options that are still to be read, as `check_directives` names them.
        kept: The known facts: ``facts`` and ``supplied_by``.
        source: The reader of the options, for the record.

    Returns:
        ``facts`` and ``supplied_by``, completed, and ``taken_over``: the added facts.

    Raises:
        ValueError: The script has no directives.
    """
    parsed = read_script(script)
    said = facts_of(parsed.request)
    found = [directive for name in missing if (directive := directive_of(parsed, name))]
    added = {name: said[name] for each in found for name in facts_set_by(each, said)}
    return {
        "facts": {**(kept.get("facts") or {}), **added},
        "supplied_by": {**(kept.get("supplied_by") or {}), **dict.fromkeys(added, source)},
        "taken_over": list(added),
    }


# -- translation --------------------------------------------------------------------------------


def translate_batch_script(
    script: str,
    to_manager: str = "flux",
    known: dict[str, Any] | None = None,
    from_manager: str = "",
    lossy: bool = False,
) -> dict[str, Any]:
    """Write a batch script for another workload manager: its directives, and its commands.

    Args:
        script: The script's text: Slurm, Flux, PBS, LSF or Cobalt.
        to_manager: ``flux``, ``slurm``, ``pbs`` or ``lsf``.
        known: ``facts`` that are established already, and ``supplied_by``, who established
            them; the parser reads the other facts from the script.
        from_manager: The script's manager, if it has lines of several; by default that of its
            first directive.
        lossy: Whether to accept a translation that does not do the whole work of the original.

    Returns:
        ``script``; ``valid``, whether its manager would accept it by its own lines; ``facts``,
        ``supplied_by`` and ``credits``, one line of text per fact; ``losses``, each with
        ``line``, ``text``, ``what``, ``why`` and ``grave``, and ``not_translated``, the same as
        text; ``told``, the losses, and the facts in commands instead of a directive, for the
        validator; ``changes``, the commands that differ from the original; ``left_out``, lost
        options of launchers; ``remains``, commands that still need the old manager;
        ``notes``; ``warnings``; and, unless `lossy`, ``errors``: an array, a GPU, a dependency or
        a size that is lost, or a program that will not start.

    Raises:
        ValueError: The script has no directives, is already that manager's, or fractale cannot
            write for that manager.
    """
    if to_manager not in NAMES:
        raise ValueError(f"fractale writes scripts for {', '.join(NAMES)}, not for `{to_manager}`")
    parsed = read_script(script, from_manager or None)
    established: Mapping[str, Any] = (known or {}).get("facts") or {}
    request = with_facts(parsed.request, established)
    changed = None if request == parsed.request else request
    translation = translate(parsed, to_manager, request=changed)
    facts = facts_of(request)
    supplied_by = dict.fromkeys(facts, PARSER) | dict((known or {}).get("supplied_by") or {})
    invalid = [str(each) for each in translation.script.invalid]
    errors = [*invalid, *([] if lossy else _too_much(translation))]
    answer: dict[str, Any] = {
        "script": translation.text,
        "from_manager": parsed.scheduler,
        "to_manager": to_manager,
        "valid": not invalid,
        "facts": facts,
        "supplied_by": supplied_by,
        "credits": [_credit(parsed, name, facts[name], by) for name, by in supplied_by.items()],
        "losses": [_loss(each) for each in translation.losses],
        "told": [*map(_loss, translation.losses), *map(_said, sorted(translation.said))],
        "not_translated": [str(each) for each in translation.losses],
        "changes": [
            {"line": each.line, "old": each.old, "new": each.new} for each in translation.changes
        ],
        "left_out": [str(each) for each in translation.left_out],
        "remains": [str(each) for each in translation.remains],
        "notes": list(translation.notes),
        "warnings": list(_warnings(translation)),
    }
    return {**answer, "errors": errors} if errors else answer


def _too_much(translation: Translation) -> list[str]:
    """List why a translation is incomplete; the last entry says how to accept it anyway."""
    lost = list(translation.grave)
    return [*lost, "set `lossy: true` (`-i lossy=true`) to write it anyway"] if lost else []


def _loss(loss: Loss) -> dict[str, Any]:
    found = dataclasses.asdict(loss)
    del found["about"]
    return {**found, "grave": loss.grave}


def _said(field: str) -> dict[str, Any]:
    return {"line": 0, "text": "", "what": field, "why": "a command says it", "grave": False}


def _warnings(translation: Translation) -> Iterator[str]:
    original = translation.original
    yield from (str(each) for each in translation.remains)
    yield from (str(each) for each in original.reading.remarks)
    title = dialect_of(original.scheduler).title
    yield from (f"{title} refuses the original: {each}" for each in original.invalid)


def _credit(parsed: Script, fact: str, value: Any, by: str) -> str:
    directive = directive_of(parsed, fact)
    line = f"line {directive.line}: " if directive else ""
    return f"{line}{fact} = {value}, read by {by}"


# -- validation ---------------------------------------------------------------------------------


def validate_batch_script(
    script: str, original: str | None = None, told: list[Any] | None = None
) -> dict[str, Any]:
    """Check a batch script without its workload manager.

    Looks for options that the manager does not know or refuses, for directives of another
    manager left in it, and for shell syntax that its shell refuses. If the original script is
    given, also checks whether both scripts ask for the same and run the same commands.

    Args:
        script: The script's text.
        original: The script that it was translated from.
        told: The known losses: ``told`` of `translate_batch_script`, or texts.

    Returns:
        ``valid``, ``checks`` (the number of checks), ``warnings``, and, if there are any,
        ``errors``.
    """
    try:
        parsed = read_script(script)
    except ValueError as error:
        return {"valid": False, "checks": 1, "warnings": [], "errors": [str(error)]}
    found = validate_lines(script, parsed.scheduler)
    if original:
        compared = against_original(parsed, original, told or (), strict=True)
        found.add(WITH_ORIGINAL, compared.errors)
        found.warnings += compared.warnings
    answer = {"valid": found.valid, "checks": len(found.checks), "warnings": found.warnings}
    return {**answer, "errors": found.errors} if found.errors else answer
