"""The key of a step's result: everything that the result depends on, by name.

Two attempts with the same key would have the same result. A part that cannot be known makes the
step `NotKeyed`: it makes its call, and its result is not kept.

- The kind of step, with `SEMANTICS`: our own version of what a step of that kind does.
- What it calls: the tool with its definition, or the prompt as its server renders it; the server
  with its version, command, environment and code (`fractale.toolbox.Provenance`).
- The rendered inputs and instruction.
- The content of each file that they name, also inside a command, and of those in `cache.files`.
- Of a model: which one, its address, the tools that it may call, the form of its answer.
"""

from __future__ import annotations

import asyncio
import glob
import os
import re
import shutil
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Final, cast
from urllib.parse import unquote

from fractale.code_files import CHUNK, checksum
from fractale.errors import CallError, FractaleError
from fractale.graph.bindings import PROMPT, resolve, resolve_prompt
from fractale.graph.call import Attempt
from fractale.graph.made import NOT_TEXT
from fractale.paths import JOBS
from fractale.plain import as_text
from fractale.plan.expressions import render
from fractale.plan.forms import part_data
from fractale.plan.job import job_data
from fractale.plan.kinds import GENERAL_AGENTS
from fractale.policy import PlannedCall, allowed_by, reads_only
from fractale.toolbox import Provenance, ToolInfo, provenance_of
from fractale.version import __version__

SEMANTICS: Final[Mapping[str, int]] = {"tool": 1, "prompt": 1, "agent": 1, "job": 1, "script": 1}
"""Kind of step → the version of what fractale itself does in such a step: how it makes a call of
the inputs, and outputs of the answer. Raise it with every change after which the result of an
earlier run would be wrong. `tests/graph/test_reuse_key.py` fails if such a change is not noted."""

MOST_TEXT: Final = 1024 * 1024
"""Characters of a text in which names of files are looked for."""

MOST_NAMES: Final = 20_000
"""Words of all texts of a step that are compared with files."""

MOST_MATCHES: Final = 1_000
"""Files that one pattern may match, and that a directory may have, to be compared."""

MOST_IN_DIRECTORY: Final = 64 * 1024 * 1024
"""Bytes of the files of a directory that are compared."""

_WORDS: Final = re.compile(r"""(?:\\\s|[^\s"'`;|&<>()])+""")
"""A word as a shell splits it, with its escaped spaces."""
_QUOTED: Final = re.compile(r"""'([^'\n]+)'|"([^"\n]+)\"""")
_BRACES: Final = re.compile(r"""([^\s"'`;|&<>(){}]*)\{([^{}\s]*,[^{}\s]*)\}([^\s"'`;|&<>(){}]*)""")
_HERE: Final = (".", "..", "./", "../", "~")
_NAME: Final = re.compile(r"\w")
_MAGIC: Final = re.compile(r"[*?\[]")
LONGEST: Final = 4096
FOLDER: Final = "a directory"
"""In place of the checksum of a directory."""


class NotKeyed(Exception):
    """Why the result of a step is neither taken over nor kept, as text."""


@dataclass(slots=True)
class KeyParts:
    """The parts of a key.

    Args:
        group: The kind of step and what it calls. Only results of one group are compared.
        values: Name of each part → JSON. The names are for users.
        files: Path → checksum of each file that was found. They are parts, too.
        texts: The values in which names of files are looked for.
        names: Names in the code of a tool that may be of files.
        bases: The directories to which relative paths belong.
        files_given: Whether the step says itself which files matter.
    """

    group: list[str]
    values: dict[str, Any] = field(default_factory=dict[str, Any])
    files: dict[str, str] = field(default_factory=dict[str, str])
    texts: list[Any] = field(default_factory=list[Any])
    names: list[str] = field(default_factory=list[str])
    bases: list[Path] = field(default_factory=list[Path])
    files_given: bool = False

    def all(self, state_dir: Path) -> dict[str, Any]:
        """Name → JSON of every part. A file that a run keeps has the same name in every run."""
        kept = re.compile(re.escape(f"{state_dir.absolute()}/runs/") + "[^/]+/outputs/files/")
        files = {f"file `{path}`": found for path, found in self.files.items()}
        return cast("dict[str, Any]", _without(kept, {**self.values, **files}))


async def parts_of(attempt: Attempt, *, declared: bool, state_dir: Path) -> KeyParts:
    """The parts of the key of an attempt whose inputs are rendered.

    Args:
        declared: Whether the step says `cache`. Otherwise only tools count that say that they read
            and that they stay in a closed world.
        state_dir: Its files are no part of any key.

    Raises:
        NotKeyed: A part cannot be known, or no result may be taken over.
    """
    if attempt.context.drafted:
        raise NotKeyed("a model wrote the step")
    if any(each.kind == "input" and each.private for each in attempt.seen.sources):
        raise NotKeyed("it has a secret input")
    step = attempt.step
    try:
        parts = await _of_kind(attempt, declared)
    except CallError as error:
        raise NotKeyed(f"what it calls is not known: {error.message}") from error
    parts.values["kind"] = [step.kind, SEMANTICS[step.kind]]
    if step.judge:
        own = isinstance(step.judge, bool)
        parts.values["judge"] = None if own else render(step.judge, attempt.scope)
        parts.values["task"] = [attempt.instruction, step.description]
        parts.values.setdefault("model", attempt.deps.models.identity(step.model))
    written = {k: v for k, v in parts.values.items() if not k.startswith("server")}
    if attempt.context.mask(written) != written:
        raise NotKeyed("there is a secret in it")
    await add_files(attempt, parts, state_dir)
    return parts


async def _of_kind(attempt: Attempt, declared: bool) -> KeyParts:
    step = attempt.step
    if step.kind == "tool":
        return await _of_tool(attempt, step.target or "", dict(attempt.inputs), declared)
    if not declared:
        raise NotKeyed("it does more than to read; write `cache: true` in the step")
    if step.kind == "agent":
        return await _of_agent(attempt)
    if step.kind == "prompt":
        return await _of_prompt(attempt)
    return _of_job(attempt)


async def add_files(attempt: Attempt, parts: KeyParts, state_dir: Path) -> None:
    """Look at the files that the step names, as they are now.

    Raises:
        NotKeyed: One cannot be compared.
    """
    given = attempt.step.cache.files if attempt.step.cache else ()
    globs = [str(render(each, attempt.scope)) for each in given]
    globs += [as_text(render(each, attempt.scope)) for each in attempt.step.creates]
    required = globs[: len(given)]
    look = _Look(parts, attempt.context.start_dir, state_dir)
    parts.files = await asyncio.to_thread(look.all, required, globs)


async def made_of(
    attempt: Attempt, parts: KeyParts, outputs: Any, state_dir: Path
) -> dict[str, str]:
    """Path → checksum of the files and directories that the outputs of a step name.

    Args:
        parts: Of its key.

    Raises:
        NotKeyed: One cannot be compared.
    """
    look = _Look(parts, attempt.context.start_dir, state_dir)
    return await asyncio.to_thread(look.made, outputs)


def _unknown(parts: KeyParts, why: str) -> None:
    """Refuse a key because of something unknown, unless the step says which files matter.

    Raises:
        NotKeyed: It does not.
    """
    if why and not parts.files_given:
        raise NotKeyed(f"{why}; name the files that matter: `cache: {{files: […]}}`")


def _parts(attempt: Attempt, *group: str) -> KeyParts:
    files_given = bool(attempt.step.cache and attempt.step.cache.files)
    return KeyParts(
        [attempt.step.kind, *group], bases=[attempt.context.start_dir], files_given=files_given
    )


# Tools


async def _of_tool(
    attempt: Attempt, name: str, arguments: Mapping[str, Any], declared: bool
) -> KeyParts:
    tool = await resolve(attempt.deps.toolbox, attempt.context.bindings, name)
    found = await provenance_of(attempt.deps.toolbox, tool.server, tool.own_name)
    if not declared:
        _check_reads(tool, found)
        await _check_unchanged(attempt, tool)
    if attempt.context.bindings.change_of(tool) is not None:
        raise NotKeyed(f"the definition of `{tool.name}` changed")
    planned = PlannedCall(
        tool=tool, arguments=arguments, chosen_by="plan", approve=attempt.step.approve
    )
    if attempt.deps.policy.rule(planned).verdict == "deny":
        raise NotKeyed(f"the policy denies `{tool.name}`")
    parts = _parts(attempt, tool.qualified_name)
    parts.values["tool"] = [tool.qualified_name, tool.definition]
    _add_provenance(parts, found)
    for argument, value in arguments.items():
        parts.values[f"argument `{argument}`"] = value
        parts.texts.append(value)
    return parts


def _check_reads(tool: ToolInfo, found: Provenance) -> None:
    """Check that a step without `cache` may take over a result of this tool.

    Raises:
        NotKeyed: It may not.
    """
    hint = "write `cache: true` in the step"
    if tool.is_agent or JOBS in tool.annotations:
        raise NotKeyed(f"`{tool.name}` starts work of its own; {hint}")
    if not reads_only(tool):
        raise NotKeyed(f"`{tool.name}` does not say that it only reads (`readOnlyHint`); {hint}")
    if tool.annotations.get("openWorldHint") is not False:
        raise NotKeyed(
            f"`{tool.name}` does not say that its world is closed (`openWorldHint: false`): its "
            f"answer may change at any time; {hint}"
        )
    if found.remote:
        raise NotKeyed(f"the code of server `{tool.server}` is on the other side; {hint}")


async def _check_unchanged(attempt: Attempt, tool: ToolInfo) -> None:
    """Check that the run does not change what the server of a tool knows, which the tool may read.

    Raises:
        NotKeyed: The run calls another tool of the server that may do so.
    """
    bindings = attempt.context.bindings
    for name, bound in sorted(bindings.names.items()):
        if bound.server != tool.server or name.startswith(PROMPT):
            continue
        other = await resolve(attempt.deps.toolbox, bindings, name)
        if not reads_only(other):
            raise NotKeyed(
                f"the run also calls `{other.name}`, which may change what server "
                f"`{tool.server}` knows; write `cache: true` in the step"
            )


def _add_provenance(parts: KeyParts, found: Provenance, prefix: str = "") -> None:
    if not found.remote or "address" not in found.parts:
        _unknown(parts, found.unknown)
    for name, value in found.parts.items():
        parts.values[f"server's {name}{prefix}" if name != "server" else f"server{prefix}"] = value
    parts.names += found.names
    if found.directory is not None and found.directory not in parts.bases:
        parts.bases.append(found.directory)


# Models


async def _of_agent(attempt: Attempt) -> KeyParts:
    step, agents = attempt.step, attempt.deps.agents
    name = "ask" if step.target in GENERAL_AGENTS else str(step.target)
    agent = agents.find(name)
    if agent is None:
        error = attempt.scope.get("previous", {}).get("error")
        more = {"instruction": attempt.instruction, **({"error": error} if error else {})}
        arguments = {**more, **attempt.inputs}
        return await _of_tool(attempt, name, arguments, True)
    parts = _parts(attempt, name)
    expert = agents.expert(name)
    if expert is not None:
        parts.values["agent"] = part_data(expert)
        parts.texts.append(str(expert.instruction))
    elif not agents.is_built_in(name):
        _unknown(parts, f"the sub-agent `{name}` is a program whose files are not known")
    await _add_model(attempt, parts, agent.model, agent.tools)
    for argument, value in attempt.inputs.items():
        parts.values[f"argument `{argument}`"] = value
        parts.texts.append(value)
    return parts


async def _of_prompt(attempt: Attempt) -> KeyParts:
    name, toolbox = attempt.step.target or "", attempt.deps.toolbox
    bound = await resolve_prompt(toolbox, attempt.context.bindings, name)
    parts = _parts(attempt, bound)
    messages = await toolbox.get_prompt(bound, attempt.inputs)
    parts.values["prompt"] = [bound, *(asdict(each) for each in messages)]
    parts.texts += [each.text for each in messages]
    await _add_model(attempt, parts, None, None)
    return parts


async def _add_model(
    attempt: Attempt, parts: KeyParts, model: str | None, allowed: tuple[str, ...] | None
) -> None:
    """Add the model, its task and its tools.

    Args:
        model: Of the agent, if it has its own.
        allowed: The tools that the agent may call, if it has a list.
    """
    step = attempt.step
    try:
        parts.values["model"] = attempt.deps.models.identity(step.model or model)
    except FractaleError as error:
        raise NotKeyed(f"its model is not known: {error.message}") from error
    parts.values["version"] = __version__  # the texts that fractale itself gives to models
    parts.values["instruction"] = [attempt.instruction, step.description]
    parts.values["output_schema"] = step.output_schema
    parts.values["rules"] = [[rule.event, rule.expression.source] for rule in step.rules]
    parts.values["error before"] = attempt.scope.get("previous", {}).get("error")
    parts.texts.append(attempt.instruction or step.description)
    if () in (step.tools, allowed):
        parts.values["tools"] = []
        return
    _unknown(parts, "its model may call tools and read any file, unless `allow_tools: false`")
    found: list[Any] = []
    for tool in await attempt.deps.toolbox.tools():
        if all(allowed_by(each, tool) for each in (step.tools, allowed)):
            known = await provenance_of(attempt.deps.toolbox, tool.server, tool.own_name)
            found.append([tool.qualified_name, tool.definition, known.parts])
    parts.values["tools"] = found


# Jobs and scripts


def _of_job(attempt: Attempt) -> KeyParts:
    step = attempt.step
    scheduler = str(attempt.inputs.get("scheduler") or "")
    parts = _parts(attempt, scheduler)
    given = {name: value for name, value in attempt.inputs.items() if name not in NOT_TEXT}
    for name, value in given.items():
        parts.values[f"`{name}`"] = value
        parts.texts.append(value)
    start = attempt.context.start_dir
    folder = start / str(attempt.inputs.get("folder") or "")
    parts.bases = list(dict.fromkeys([start, folder]))
    parts.values["directory"] = str(folder)
    cache = attempt.deps.cache
    environment: Mapping[str, str] = cache.environment if cache else dict[str, str]()
    parts.values["environment"] = dict(environment)
    written = job_data(step.job) if step.job else {}
    left_out = {*NOT_TEXT, *attempt.inputs}
    parts.values["answer"] = {k: v for k, v in written.items() if k not in left_out}
    for program in sorted(programs_in(given)):
        path = shutil.which(program, path=environment.get("PATH", os.defpath))
        if path is not None:
            now = Path(path).resolve().stat()
            parts.values[f"program `{program}`"] = [path, now.st_size, now.st_mtime_ns]
    return parts


def programs_in(given: Mapping[str, Any]) -> Iterator[str]:
    """The words that may name the programs of a job: the first of each line, or of a command."""
    command: Any = given.get("command")
    if isinstance(command, list) and command:
        yield str(cast("list[Any]", command)[0])
    elif command:
        yield next(iter(str(cast("Any", command)).split()), "")
    for line in str(given.get("script") or "")[:MOST_TEXT].splitlines()[:MOST_MATCHES]:
        for part in re.split(r"[|;&]+|\$\(|`", line):
            words = [word for word in part.split() if "=" not in word]
            if words and re.fullmatch(r"[\w.+/-]+", words[0]):
                yield words[0]


# Files


class _Look:
    """Looks at the files that a step names.

    Args:
        start: The directory in which the run was started.
        state_dir: Its files are no part of any key.
    """

    def __init__(self, parts: KeyParts, start: Path, state_dir: Path) -> None:
        self._parts = parts
        self._is_made = False
        self._start = start
        self._state_dir = Path(os.path.abspath(state_dir))  # noqa: PTH100 - no link is followed
        self._found: dict[str, str] = {}
        self._names = 0

    def all(self, required: Iterable[str], globs: Iterable[str]) -> dict[str, str]:
        """Path → checksum of every file that is named.

        Args:
            required: Those of `globs` that must match something.

        Raises:
            NotKeyed: A file cannot be compared, or a pattern matches nothing.
        """
        wanted = set(required)
        for pattern in globs:
            if not self._pattern(self._start, pattern) and pattern in wanted:
                raise NoSuchFile(pattern)
        for value in self._parts.texts:
            for text in texts_in(value):
                self._text(text)
        for name in self._parts.names:
            for base in self._parts.bases:
                path = base / Path(name).expanduser()
                if not path.is_dir():
                    self._path(path)
        return dict(sorted(self._found.items()))

    def made(self, outputs: Any) -> dict[str, str]:
        """Path → checksum of everything that the outputs of a step name.

        Raises:
            NotKeyed: One cannot be compared.
        """
        self._is_made = True
        for text in islice(texts_in(outputs), MOST_NAMES):
            for name in dict.fromkeys((text, *words_in(text[:LONGEST]))):
                path = _of_uri(name)
                if len(path) > LONGEST or path in _HERE or "\0" in path or not _NAME.search(path):
                    continue
                for base in self._parts.bases:
                    self._made(base / Path(path).expanduser(), whole=name == text)
        return dict(sorted(self._found.items()))

    def _made(self, path: Path, *, whole: bool) -> None:
        """Add a file that is named, or a directory that a whole text is."""
        try:
            if path.is_file() or (whole and path.is_dir() and not self._start.is_relative_to(path)):
                self._path(path)
        except (OSError, ValueError):
            return

    def _pattern(self, base: Path, pattern: str) -> bool:
        """Add the files of a path or a pattern; returns whether there are any."""
        path = os.path.join(base, Path(pattern).expanduser())  # noqa: PTH118 - a trailing slash
        if not _MAGIC.search(pattern) or Path(path).exists():
            return self._path(Path(path))
        matches = list(islice(glob.iglob(path, recursive=True), MOST_MATCHES + 1))  # noqa: PTH207 - absolute
        if len(matches) > MOST_MATCHES:
            raise NotKeyed(f"`{pattern}` matches more than {MOST_MATCHES:,} files")
        found = [self._path(Path(match)) for match in sorted(matches)]
        return any(found)

    def _text(self, text: str) -> None:
        """Add the files that a text is, or that words in it are."""
        if len(text) <= LONGEST and "\n" not in text:
            self._name(text)
            if text.strip() == "/":
                self._path(Path("/"))
        if len(text) > MOST_TEXT:
            _unknown(self._parts, "one of its texts is too long to look for names of files in it")
        for word in dict.fromkeys(words_in(text[:MOST_TEXT])):
            self._name(word)

    def _name(self, word: str) -> None:
        word = _of_uri(word)
        named = _NAME.search(word) or word in _HERE
        if not word or len(word) > LONGEST or "\0" in word or not named:
            return
        self._names += 1
        if self._names > MOST_NAMES:
            _unknown(self._parts, f"it has more than {MOST_NAMES:,} words that may name files")
            return
        expanded = os.path.expandvars(word) if "$" in word else word
        for base in self._parts.bases:
            for each in dict.fromkeys((word, expanded)):
                self._pattern(base, each)

    def _path(self, path: Path) -> bool:
        """Add a file or a directory; returns whether it exists."""
        name = os.path.abspath(path)  # noqa: PTH100 - no link is followed
        if name in self._found or name == os.devnull:  # which is always empty
            return True
        try:
            now = path.stat()
        except (OSError, ValueError):
            return False
        if stat.S_ISDIR(now.st_mode):
            try:
                self._directory(Path(name))
            except OSError as error:
                raise NotKeyed(f"`{name}` cannot be read: {error.strerror or error}") from error
        elif stat.S_ISREG(now.st_mode):
            self._file(Path(name))
        else:
            raise NotKeyed(f"`{name}` is neither a file nor a directory")
        return True

    def _file(self, path: Path) -> None:
        try:
            self._found[str(path)] = checksum(path)
        except OSError as error:
            raise NotKeyed(f"`{path}` cannot be read: {error.strerror or error}") from error

    def _directory(self, path: Path) -> None:
        """Add everything in a directory, and what its links lead to, unless that is too much."""
        if path.is_relative_to(self._state_dir) and not self._is_made:
            _unknown(self._parts, f"it names `{path}`, a directory of fractale's own state")
            return
        self._found[str(path)] = FOLDER
        count, size, left, known = 0, 0, [path], {os.path.realpath(path)}
        while left:
            with os.scandir(left.pop()) as entries:
                inside = sorted(entries, key=lambda entry: entry.name)
            for entry in inside:
                name = Path(entry.path)
                if name == self._state_dir:
                    continue
                is_link, is_folder = entry.is_symlink(), entry.is_dir()
                if is_folder:
                    self._found[str(name)] = f"a link to {name.readlink()}" if is_link else FOLDER
                    if (real := os.path.realpath(name)) not in known:
                        known.add(real)
                        left.append(name)
                elif entry.is_file():
                    size += entry.stat().st_size
                count += 1
                if count > MOST_MATCHES or size > MOST_IN_DIRECTORY:
                    why = f"more than {MOST_MATCHES:,} files or {MOST_IN_DIRECTORY // CHUNK} MiB"
                    _unknown(self._parts, f"it names the directory `{path}`, which has {why}")
                    return
                if entry.is_file():
                    self._file(name)


def _of_uri(text: str) -> str:
    """The path that a text is, also one that is written as a URI."""
    if not text.startswith("file:"):
        return text
    path = text.removeprefix("file:")
    if path.startswith("//"):
        path = f"/{path[2:].partition('/')[2]}"
    return unquote(path)


class NoSuchFile(Exception):
    """A pattern of `cache.files` that matches nothing."""


def _without(pattern: re.Pattern[str], value: Any) -> Any:
    """A JSON value with everything that matches a pattern taken out of its texts."""
    if isinstance(value, str):
        return pattern.sub("", value)
    if isinstance(value, Mapping):
        table = cast("Mapping[str, Any]", value)
        return {_without(pattern, key): _without(pattern, each) for key, each in table.items()}
    if isinstance(value, (list, tuple)):
        return [_without(pattern, each) for each in cast("list[Any]", value)]
    return value


def texts_in(value: Any) -> Iterator[str]:
    """Every text in a JSON value, keys included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, each in cast("Mapping[Any, Any]", value).items():
            yield str(key)
            yield from texts_in(each)
    elif isinstance(value, (list, tuple)):
        for each in cast("list[Any]", value):
            yield from texts_in(each)


def words_in(text: str) -> Iterator[str]:
    """The words of a text that may name files, as a shell or a program may split it."""
    for found in _QUOTED.finditer(text):
        yield found[1] or found[2]
    for found in _BRACES.finditer(text):
        yield from (f"{found[1]}{each}{found[3]}" for each in found[2].split(","))
    for found in _WORDS.finditer(text):
        word = re.sub(r"\\(\s)", r"\1", found[0])
        yield word
        parts = re.split(r"[=:,]", word)
        for part in (word, *(parts if len(parts) > 1 else ())):
            yield part.strip(".,:!?@[]{}")
            if part.startswith("-"):  # -ofile
                yield part[2:]
