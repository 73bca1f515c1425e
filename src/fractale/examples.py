"""The plans and registries that come with fractale: their list, and copies to edit."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from fractale import shipped
from fractale.errors import UsageError
from fractale.plan.build import load_plan
from fractale.plan.model import Plan
from fractale.plan.needs import models_of, named_tools
from fractale.private import make_folder
from fractale.registry.files import RegistryEntry, load_registry, registries_with
from fractale.registry.imports import PACKAGES, import_entry
from fractale.text import did_you_mean

_NEEDS: Final = re.compile(r"\bNeeds (.+?)\.(?:\s|$)")
_REGISTRY: Final = re.compile(r"-r registries/([\w-]+)\.yaml")
_DATA: Final = re.compile(r"fractale:((?:\w+/)*data\b)")
_EDITOR: Final = re.compile(r"# yaml-language-server: \$schema=\.\./.*\n")
"""The line that names the schema's file in a clone: a copy does not have the file."""
_PARTS: Final = "parts"
"""The directory of plans that other plans include."""

ExampleKind = Literal["plan", "sweep", "part", "registry"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One shipped file.

    Args:
        kind: A *part* is a plan that others include.
        does: One sentence.
        registries: The names of the registries that its tools are in.
        needs: What must be there beside fractale: a model, packages, programs.
    """

    name: str
    kind: ExampleKind
    file: Path
    does: str
    registries: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()

    @property
    def command(self) -> str:
        """The command that uses the file from where it is."""
        return _command(self, lambda kind, name: f"{shipped.SCHEME}{name}")

    @property
    def copied_command(self) -> str:
        """The command that uses the copy, from the directory that it was copied to."""
        return _command(self, lambda kind, name: str(_place(shipped.files(kind)[name])))


def _command(example: Example, named: Callable[[shipped.Kind, str], str]) -> str:
    if example.kind == "registry":
        return f"fractale run PLAN -r {named('registry', example.name)}"
    verb = "sweep" if example.kind == "sweep" else "run"
    options = [f"-r {named('registry', name)}" for name in example.registries]
    return " ".join([f"fractale {verb} {named('plan', example.name)}", *options])


def examples() -> list[Example]:
    """All plans, then all registries, by name."""
    plans = [_plan(name, file) for name, file in shipped.files("plan").items()]
    return [*plans, *(_registry(*each) for each in shipped.files("registry").items())]


def _plan(name: str, file: Path) -> Example:
    text = file.read_text(encoding="utf-8")
    if re.search(r"^plan:", text, re.MULTILINE):  # a sweep file
        does = re.search(r"^description: (.+)$", text, re.MULTILINE)
        return Example(name=name, kind="sweep", file=file, does=does[1] if does else "")
    plan = load_plan(file)
    registries = _registries(plan, text)
    prompts = {step.target for step in plan.walk() if step.kind == "prompt"}
    lists = [shipped.files("registry")[each] for each in registries]
    packages = [need for each in lists for need in _packages(each, prompts)]
    model = ["a model"] if models_of(plan) else []
    return Example(
        name=name,
        kind="part" if file.parent.name == _PARTS else "plan",
        file=file,
        does=_first_sentence(plan.description or _head(text) or plan.name),
        registries=registries,
        needs=tuple(dict.fromkeys([*model, *packages, *_programs(text)])),
    )


def _registries(plan: Plan, text: str) -> tuple[str, ...]:
    """Those of the first command in the plan's head, or those that list the plan's tools."""
    for line in _head(text).split("fractale run ")[1:2]:
        if written := _REGISTRY.findall(line):
            return tuple(written)
    found = registries_with(named_tools(plan), str(plan.file))
    return tuple(dict.fromkeys(Path(path.removeprefix(shipped.SCHEME)).stem for path in found))


def _registry(name: str, file: Path) -> Example:
    first = _first_sentence(_head(file.read_text(encoding="utf-8")))
    needs = tuple(_packages(file))
    return Example(name=name, kind="registry", file=file, does=first, needs=needs)


def _packages(file: Path, used: Collection[str | None] = ()) -> Iterator[str]:
    """The packages that the entries of a registry need; of optional entries, only the used ones."""
    entries = [e for e in load_registry(file).entries if not e.optional or e.served_name in used]
    roots = [entry.path.partition(".")[0] for entry in entries]
    yield from dict.fromkeys(PACKAGES[each].strip("'") for each in roots if each in PACKAGES)


def _programs(text: str) -> list[str]:
    found = [words.removesuffix(" only") for words in _NEEDS.findall(_head(text))]
    return [each for words in found for each in words.split(" and ")]


def _head(text: str) -> str:
    """The comment at the top of a file, in one line."""
    lines: list[str] = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        lines.append(line[1:].strip())
    return " ".join(line for line in lines if not line.startswith("yaml-language-server:"))


def _first_sentence(text: str) -> str:
    words = re.split(r"(?<=[.!?])\s", " ".join(text.split()), maxsplit=1)[0]
    return words if words.endswith((".", "!", "?")) else f"{words}."


# -- copies ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Copied:
    """The files that a copy wrote, and those that were there with the same content."""

    written: tuple[Path, ...]
    unchanged: tuple[Path, ...]


def find_example(name: str) -> Example:
    """The example of a name; a plan before a registry of the same name.

    Raises:
        UsageError: fractale has none of this name.
    """
    found = {each.name: each for each in reversed(examples())}
    plain = name.removeprefix(shipped.SCHEME)
    if plain in found:
        return found[plain]
    raise UsageError(
        f"no example is named `{plain}`",
        hint=did_you_mean(plain, found, otherwise="`fractale examples` lists them"),
    )


def copy_examples(chosen: list[Example], directory: Path, *, overwrite: bool = False) -> Copied:
    """Copy plans with the plans that they include, their registries and their data.

    Args:
        directory: Gets ``plans`` and ``registries``. The default inputs of the copied plans are
            the copied files, relative to this directory.
        overwrite: Whether files that have another content are replaced.

    Raises:
        UsageError: A file with another content is there; nothing was written.
    """
    files = dict.fromkeys(file for each in chosen for file in _files(each))
    contents = {directory / _place(file): _content(file) for file in files}
    same = [path for path, text in contents.items() if _has(path, text)]
    changed = [path for path in contents if path not in same and path.exists()]
    if changed and not overwrite:
        raise UsageError(
            f"nothing was written: {', '.join(map(str, changed[:5]))} would be overwritten",
            hint="copy into another directory, or add --force",
        )
    written = [path for path in contents if path not in same]
    for path in written:
        make_folder(path.parent)
        path.write_bytes(contents[path])
    return Copied(written=tuple(written), unchanged=tuple(same))


def _files(example: Example) -> Iterator[Path]:
    yield example.file
    if example.kind == "registry":
        return
    for name in example.registries:
        yield shipped.files("registry")[name]
    if example.kind == "sweep":
        named = re.search(r"^plan: (.+)$", example.file.read_text(encoding="utf-8"), re.MULTILINE)
        yield from _of_plan(load_plan(example.file.parent / named[1].strip())) if named else ()
    else:
        yield from _of_plan(load_plan(example.file))


def _of_plan(plan: Plan) -> Iterator[Path]:
    """A plan's file, those that it includes, and the data that their inputs name."""
    yield Path(plan.file).resolve()
    for spec in plan.inputs.values():
        found = shipped.value(spec.default)
        if found is not spec.default:
            place = Path(found)
            yield from sorted(place.iterdir()) if place.is_dir() else [place]
    for step in plan.walk():
        if step.plan is not None:
            yield from _of_plan(step.plan)


def _place(file: Path) -> Path:
    """The path of a shipped file below the directory of a copy."""
    return file.resolve().relative_to(shipped.root())


def _content(file: Path) -> bytes:
    """The file's bytes; a plan's default inputs name the copies."""
    if file.suffix != ".yaml":
        return file.read_bytes()
    text = _EDITOR.sub("", file.read_text(encoding="utf-8"))
    return _DATA.sub(r"plans/\1", text).encode()


def _has(path: Path, content: bytes) -> bool:
    try:
        return path.read_bytes() == content
    except OSError:
        return False


# -- fractale's own tools -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnTool:
    """A tool that comes with fractale.

    Args:
        path: For an entry of a registry: ``fractale.tools.files.read_text_file``.
        arguments: Their names; those that may be left out are in brackets.
        registries: The shipped registries that list it.
    """

    path: str
    arguments: tuple[str, ...]
    description: str
    registries: tuple[str, ...]


def own_tools() -> list[OwnTool]:
    """The tools of the shipped registries that are fractale's own, by path. Imports them."""
    from fractale.registry.signature import Signature

    lists: dict[str, list[str]] = {}
    entries: dict[str, RegistryEntry] = {}
    for name, file in shipped.files("registry").items():
        for entry in load_registry(file).entries:
            if entry.kind == "tool" and entry.path.startswith("fractale."):
                entries[entry.path] = entry
                lists.setdefault(entry.path, []).append(name)
    found: list[OwnTool] = []
    for path in sorted(entries):
        function = import_entry(entries[path])
        parameters = Signature(function).parameters.values()
        arguments = [p.name if p.default is p.empty else f"[{p.name}]" for p in parameters]
        words = _first_sentence(inspect.getdoc(function) or "")
        names = tuple(lists[path])
        found.append(
            OwnTool(path=path, arguments=tuple(arguments), description=words, registries=names)
        )
    return found
