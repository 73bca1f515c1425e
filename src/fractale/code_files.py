"""The files of code that a tool runs, found without importing or starting anything.

`python_code` follows the imports of a Python file through the project that the file belongs to.
A file or a program whose name is a constant in that code counts, too: a table that it reads, a
program that it starts. Packages that are installed count by their version. `program_code` does
this for the command of a server: ``python -m module``, ``python file.py``, a console script, or a
binary.

If code cannot be found, `UnknownCode` says why: nothing may then be concluded from the files.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import hashlib
import importlib.metadata
import os
import re
import shutil
import sys
import sysconfig
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from fractale.version import __version__

MOST_FILES: Final = 2_000
"""The files of code of one tool."""

MOST_BINARY: Final = 512 * 2**20
"""The bytes of a program that are read for its checksum."""

CHUNK: Final = 1024 * 1024

STARTS_OTHERS: Final = frozenset(
    {
        *("node", "nodejs", "npx", "npm", "pnpm", "yarn", "bun", "bunx", "deno", "tsx"),
        *("uv", "uvx", "pipx", "poetry", "hatch", "conda", "mamba", "micromamba", "pixi"),
        *("docker", "podman", "apptainer", "singularity", "nerdctl", "ssh", "srun", "mpirun"),
        *("sh", "bash", "dash", "zsh", "ksh", "fish", "env", "nice", "timeout", "sudo", "xargs"),
        *("java", "ruby", "perl", "php", "Rscript", "julia", "make", "busybox"),
    }
)
"""Programs whose work is in other files, which fractale does not know how to find."""

_PYTHON: Final = re.compile(r"python(\d+(\.\d+)?)?t?$")
_SHEBANG: Final = re.compile(rb"#!\s*(\S+)(?:[ \t]+(?:-S\s+)?(\S+))?")
_LONG_SHEBANG: Final = re.compile(rb"#!/bin/sh\n'''exec'[ \t]+\"?([^\"\s]+)\"?")
"""What pip writes if the path of the interpreter is too long for a first line, or has a space."""
_SITE: Final = ("site-packages", "dist-packages")
_LOADERS: Final = frozenset(
    {
        *("spec_from_file_location", "SourceFileLoader", "run_path", "run_module", "exec"),
        *("addsitedir", "load_source", "entry_points"),
    }
)
"""Functions that run code which no import names."""
_STARTERS: Final = frozenset(
    {
        *("subprocess", "pexpect", "system", "popen", "create_subprocess_exec"),
        *("create_subprocess_shell", "execv", "execvp", "execve", "spawnv", "CDLL"),
    }
)
"""Names in code that starts programs."""
_LONGEST_NAME: Final = 1024


class UnknownCode(Exception):
    """Why the code that runs is not known, as the end of a sentence."""


def checksum(path: Path) -> str:
    """The SHA-256 of a file.

    Raises:
        OSError: It cannot be read.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while data := file.read(CHUNK):
            digest.update(data)
    return digest.hexdigest()


Identity = tuple[int, int, int]


def identity(path: Path) -> Identity | None:
    """Size, inode and time of the last change of a file; None if it cannot be looked at."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_size, found.st_ino, found.st_ctime_ns


_loaded: dict[str, Identity | None] = {}
"""The files of modules, as they were when a toolbox was first built with them. Python keeps a
module for the life of the process (`sys.modules`), whatever becomes of its file."""

_installed: set[str] = set()
"""The files of modules that are of Python itself or of installed packages: there are thousands."""


_began: Final = time.time()
"""When this process began to remember files."""


def note_loaded() -> None:
    """Remember the files of the imported modules as they are now, unless that was done before."""
    for module in list(sys.modules.values()):
        file = getattr(module, "__file__", None)
        if not isinstance(file, str) or file in _loaded or file in _installed:
            continue
        if _is_installed(Path(file)):
            _installed.add(file)
        else:
            _loaded[file] = identity(Path(file))


def check_loaded(files: Mapping[str, str]) -> None:
    """Check that this process runs the present text of some files.

    Raises:
        UnknownCode: A file was changed after its module was imported.
    """
    note_loaded()
    for file in files:
        now = identity(Path(file))
        if file in _loaded:
            changed = _loaded[file] != now
        else:  # a table may have been read when its module was imported
            changed = not file.endswith(".py") and (now is None or now[2] > _began * 1e9)
        if changed:
            raise UnknownCode(f"`{file}` was changed after this process had loaded it")


def check_unchanged_since(files: Mapping[str, str], moment: float) -> None:
    """Check that no file was changed after a program was started.

    Args:
        moment: When it was started, in Unix time.

    Raises:
        UnknownCode: One was.
    """
    for file in files:
        found = identity(Path(file))
        if found is None or found[2] > moment * 1e9:
            raise UnknownCode(f"`{file}` was changed after the server had been started")


# Python


@dataclass(slots=True)
class CodeFiles:
    """Code that was found.

    Args:
        files: Path → checksum, of the code and of data beside it whose names are constants in it.
        packages: Installed package → version; program → its place, size and time.
        names: Constants that may name files in the working directory of the code.
    """

    files: dict[str, str] = field(default_factory=dict[str, str])
    packages: dict[str, str] = field(default_factory=dict[str, str])
    names: set[str] = field(default_factory=set[str])

    def as_dict(self) -> dict[str, Any]:
        return {"files": self.files, "packages": self.packages}


def python_code(
    start: Path, search: Sequence[Path], directory: Path | None = None, programs: str = ""
) -> CodeFiles:
    """The file of a module, and those that it imports.

    Args:
        start: The file.
        search: Directories in which modules are looked for, in order.
        directory: The working directory of the code.
        programs: Its `PATH`.

    Raises:
        UnknownCode: Some of the code cannot be found.
    """
    walk = _Walk(search, directory, programs)
    walk.own = _top_package(start)
    walk.add(start)
    walk.finish()
    return walk.found


def code_of_text(
    text: str, search: Sequence[Path], directory: Path | None = None, programs: str = ""
) -> CodeFiles:
    """The files that a program imports whose text is known; see `python_code`.

    Raises:
        UnknownCode: Some of the code cannot be found.
    """
    walk = _Walk(search, directory, programs)
    walk.imports(text, (directory or Path.cwd()) / "-c")
    walk.finish()
    return walk.found


def code_of_module(
    name: str, search: Sequence[Path], directory: Path | None = None, programs: str = ""
) -> CodeFiles:
    """The files of a module that is run by its name; see `python_code`.

    Raises:
        UnknownCode: Some of the code cannot be found.
    """
    walk = _Walk(search, directory, programs)
    walk.own = name.partition(".")[0]
    found = walk.module(name)
    if not found:
        raise UnknownCode(f"the module `{name}` was not found")
    main = found[-1].parent / "__main__.py"
    if found[-1].name == "__init__.py" and main.is_file():
        walk.add(main)
    walk.finish()
    return walk.found


class _Walk:
    """Follows imports from file to file.

    Attributes:
        own: The package that the first file belongs to: it is followed even if it is installed.
    """

    def __init__(self, search: Sequence[Path], directory: Path | None, programs: str) -> None:
        self._search = [path for path in dict.fromkeys(search) if path.is_dir()]
        self._directory = directory
        self._programs = programs
        self._missing: set[str] = set()
        self._moves = ""  # a file that changes where modules are looked for
        self.found = CodeFiles()
        self.own = ""
        self._left: list[Path] = []
        self._looked_up: set[str] = set()

    def finish(self) -> None:
        while self._left:
            path = self._left.pop()
            if path.suffix != ".py" and not _is_text(path):
                continue
            try:
                text = path.read_text(encoding="utf-8", errors="replace")
            except OSError as error:
                raise UnknownCode(f"`{path}` cannot be read: {error.strerror}") from error
            self.imports(text, path)
        if self._moves and self._missing:
            first = min(self._missing)
            raise UnknownCode(f"`{first}` was not found, and `{self._moves}` changes `sys.path`")

    def add(self, path: Path) -> None:
        """Add a file, with the beginnings of the packages around it."""
        if str(path) in self.found.files:
            return
        if len(self.found.files) >= MOST_FILES:
            raise UnknownCode(f"its code has more than {MOST_FILES:,} files")
        try:
            self.found.files[str(path)] = checksum(path)
        except OSError as error:
            raise UnknownCode(f"`{path}` cannot be read: {error.strerror}") from error
        self._left.append(path)
        begin = path.parent / "__init__.py"
        if begin.is_file():
            self.add(begin)
            if path.name == "__init__.py" and (outer := path.parent.parent / path.name).is_file():
                self.add(outer)

    def imports(self, text: str, path: Path) -> None:
        """Follow the imports in the text of a file."""
        try:
            tree = ast.parse(text)
        except (SyntaxError, ValueError, RecursionError) as error:  # it may be of a newer Python
            raise UnknownCode(f"`{path}` cannot be read as Python: {error}") from error
        nodes = list(ast.walk(tree))
        importers = {"import_module", "__import__", *_other_names(nodes)}
        for node in nodes:
            if isinstance(node, ast.Import):
                for each in node.names:
                    self.module(each.name)
            elif isinstance(node, ast.ImportFrom):
                self._from(node, path)
            elif isinstance(node, ast.Call):
                self._called(node, path, importers)
            elif _moves_modules(node):
                self._moves = self._moves or str(path)
        written = {id(each) for node in nodes for each in _written(node)}
        constants = [n for n in nodes if isinstance(n, ast.Constant) and id(n) not in written]
        texts = {str(n.value) for n in constants if _may_name(n.value)}
        self._constants(sorted(texts), path.parent)
        if any(_starts(node) for node in nodes):
            self._started(texts)

    def _constants(self, texts: Sequence[str], folder: Path) -> None:
        """Note the files that constants name.

        Args:
            folder: Of the file with the constants: code finds its own data there.
        """
        here = self._directory
        there = {each.name for each in here.iterdir()} if here and here.is_dir() else set[str]()
        for text in texts:
            name = Path(text).expanduser()
            own = folder / name
            with contextlib.suppress(OSError, ValueError):
                if here is not None and name.suffix == ".py" and (here / name).is_file():
                    self.add(here / name)
                elif (own.parent != here or name.suffix == ".py") and own.is_file():
                    self._data(own)
                elif folder != here and own.is_dir() and text[:1] not in (".", "/", "~"):
                    self._data_in(own)
            if "." in text or os.sep in text or text in there:
                self.found.names.add(text)

    def _started(self, texts: Collection[str]) -> None:
        """Add the programs that constants name, in code that starts programs."""
        for word in {text.split()[0] for text in texts}:
            if os.sep not in word and (path := shutil.which(word, path=self._programs)):
                self.found.packages[f"program {word}"] = f"{path} {identity(Path(path))}"

    def _data_in(self, folder: Path) -> None:
        for path in sorted(folder.rglob("*")):
            if path.is_file() and path.suffix not in (".py", ".pyc"):
                self._data(path)

    def _data(self, path: Path) -> None:
        """Add a file that code names; if it is Python, with what it imports."""
        if path.suffix == ".py":
            self.add(path)
            return
        if len(self.found.files) >= MOST_FILES:
            raise UnknownCode(f"its code names more than {MOST_FILES:,} files")
        if path.stat().st_size > MOST_BINARY:
            raise UnknownCode(f"its code names `{path}`, which is too large to be compared")
        try:
            self.found.files[str(path)] = checksum(path)
        except OSError as error:
            raise UnknownCode(f"`{path}` cannot be read: {error.strerror}") from error

    def _from(self, node: ast.ImportFrom, path: Path) -> None:
        names = [each.name for each in node.names]
        if not node.level:
            base = node.module or ""
            self.module(base)
            for name in names:
                self.module(f"{base}.{name}", optional=True)
            return
        folder = path.parent
        for _ in range(node.level - 1):
            folder = folder.parent
        for part in (node.module or "").split("."):
            if part:
                self._in(folder, part)
                folder = folder / part
        for name in names:
            self._in(folder, name)

    def _called(self, node: ast.Call, path: Path, importers: Collection[str]) -> None:
        """Follow `import_module("name")`; a name that is computed may be any.

        Raises:
            UnknownCode: The call runs code that is not named.
        """
        name = _named(node.func)
        if name in _LOADERS and (name != "exec" or isinstance(node.func, ast.Name)):
            raise UnknownCode(f"`{path}` calls `{name}`, which may run any code")
        if name not in importers:
            return
        given = [*node.args[:1], *(each.value for each in node.keywords if each.arg == "name")]
        first = given[0] if given else None
        if not isinstance(first, ast.Constant) or not isinstance(first.value, str):
            raise UnknownCode(f"`{path}` imports a module whose name is computed")
        if not first.value.startswith("."):
            self.module(first.value)
            return
        package = node.args[1] if len(node.args) > 1 else None
        package = next((each.value for each in node.keywords if each.arg == "package"), package)
        if getattr(package, "id", "") not in ("__package__", "__name__"):
            raise UnknownCode(f"`{path}` imports a module whose package is computed")
        level = len(first.value) - len(first.value.lstrip("."))
        module = first.value.lstrip(".")
        self._from(ast.ImportFrom(module=module, names=[], level=level), path)

    def _in(self, folder: Path, name: str) -> Path | None:
        """Add the module of a name in a directory; returns its file or directory."""
        for found in (folder / name / "__init__.py", folder / f"{name}.py"):
            if found.is_file():
                self.add(found)
                return found
        for binary in folder.glob(f"{name}.*.so"):
            self.add(binary)
            return binary
        return folder / name if (folder / name).is_dir() else None

    def module(self, name: str, *, optional: bool = False) -> list[Path]:
        """Add a module, with the packages around it; returns their files.

        Args:
            optional: Whether the last part may be a name in the module instead.
        """
        if not name or name in self._looked_up:
            return []
        self._looked_up.add(name)
        top, *rest = name.split(".")
        if top in sys.builtin_module_names:
            return []
        if top == "fractale":  # its versions are released as a whole
            self.found.packages[top] = __version__
            return []
        for folder in self._search:
            there = folder / top
            if not (there.is_dir() or (folder / f"{top}.py").is_file() or _binaries(folder, top)):
                continue
            if _is_installed(there) and top != self.own:
                if top not in sys.stdlib_module_names:
                    self.found.packages[top] = _version_of(top, folder)
                return []
            return self._parts(folder, [top, *rest])
        if top in sys.stdlib_module_names:  # only after the project, which may have its own
            return []
        if not optional:
            self._elsewhere(top)
        return []

    def _elsewhere(self, top: str) -> None:
        """A module that is in none of the directories: it may be missing, or be found by a hook.

        Raises:
            UnknownCode: A hook may find it.
        """
        if any(next(folder.glob("__editable__*finder*.py"), None) for folder in self._search):
            raise UnknownCode(f"the files of `{top}` are known only to the package's installer")
        self._missing.add(top)
        self.found.packages.setdefault(top, "not found")

    def _parts(self, folder: Path, parts: Sequence[str]) -> list[Path]:
        found: list[Path] = []
        for part in parts:
            path = self._in(folder, part)
            if path is None:
                break
            if path.is_file():
                found.append(path)
            folder = folder / part
        return found


def _named(node: ast.AST) -> str:
    """The last part of the name that an expression is; empty if it is none."""
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def _other_names(nodes: Sequence[ast.AST]) -> Iterator[str]:
    """The names that imports give to `import_module`."""
    for node in nodes:
        if isinstance(node, ast.ImportFrom):
            yield from (n.asname for n in node.names if n.name == "import_module" and n.asname)


def _written(node: ast.AST) -> Iterator[ast.AST]:
    """The names of files that a call only writes to, such as a log."""
    if not isinstance(node, ast.Call):
        return
    function, given = node.func, list(node.args)
    inner = function.value if isinstance(function, ast.Attribute) else None
    if isinstance(inner, ast.Call) and _named(inner.func) == "Path":  # Path("log").open("a")
        given = [*inner.args[:1], *given]
    name = _named(function)
    if name == "open":
        modes = [*given[1:2], *(each.value for each in node.keywords if each.arg == "mode")]
        mode = getattr(modes[0], "value", "") if modes else ""
        if isinstance(mode, str) and mode[:1] in ("a", "w", "x") and mode and "+" not in mode:
            yield from given[:1]
    elif name in ("write_text", "write_bytes"):
        yield from given[:1] if isinstance(inner, ast.Call) else ()


def _moves_modules(node: ast.AST) -> bool:
    """Whether code looks at the places in which modules are looked for, and may change them."""
    if not isinstance(node, ast.Attribute):
        return False
    return node.attr in ("meta_path", "__path__") or (
        node.attr == "path" and getattr(node.value, "id", "") == "sys"
    )


def _starts(node: ast.AST) -> bool:
    """Whether code starts programs."""
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        module = getattr(node, "module", None)
        return not _STARTERS.isdisjoint([*(each.name for each in node.names), module])
    return _named(node) in _STARTERS


def _may_name(value: Any) -> bool:
    """Whether a constant may name a file or a program."""
    return (
        isinstance(value, str)
        and bool(re.search(r"\w", value))
        and len(value) <= _LONGEST_NAME
        and "\0" not in value
        and "\n" not in value
    )


def _binaries(folder: Path, name: str) -> bool:
    return any(True for _ in folder.glob(f"{name}.*.so"))


def _version_of(package: str, folder: Path) -> str:
    """The version of an installed package; the time of its files if it has none."""
    for name in dict.fromkeys((package, package.replace("_", "-"))):
        for found in importlib.metadata.distributions(name=name, path=[str(folder)]):
            return str(found.version)
    begins = (folder / package / "__init__.py", folder / f"{package}.py")
    return str(next((found for each in begins if (found := identity(each))), "unknown"))


def _top_package(path: Path) -> str:
    """The outermost package that a file is in; the file's own name if it is in none."""
    folder, name = path.parent, path.stem
    while (folder / "__init__.py").is_file():
        folder, name = folder.parent, folder.name
    return name


def root_of(path: Path) -> Path:
    """The directory that must be searched to find the outermost package around a file."""
    folder = path.parent
    while (folder / "__init__.py").is_file():
        folder = folder.parent
    return folder


def _is_installed(path: Path) -> bool:
    """Whether a file is of Python itself or of an installed package."""
    if any(part in _SITE for part in path.parts):
        return True
    return path.is_relative_to(_stdlib())


@functools.cache
def _stdlib() -> str:
    return sysconfig.get_paths()["stdlib"]


def _is_text(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return b"\0" not in file.read(1024)
    except OSError:
        return False


# Programs


def program_code(
    command: str, args: Sequence[str], environment: Mapping[str, str], directory: Path
) -> CodeFiles:
    """The code of a program that is started with these words.

    Args:
        environment: Of the program.
        directory: Its working directory.

    Raises:
        UnknownCode: The code cannot be found.
    """
    path = _on_path(command, environment, directory)
    if _PYTHON.match(path.name):
        if path.open("rb").read(2) == b"#!":
            raise UnknownCode(f"`{path}` is a script that starts some Python")
        return _with_program(path, _of_python(path, list(args), environment, directory))
    if path.name in STARTS_OTHERS:
        raise UnknownCode(f"`{path.name}` starts code that fractale cannot find")
    try:
        with path.open("rb") as file:
            head = file.read(1024)
    except OSError as error:
        raise UnknownCode(f"`{path}` cannot be read: {error.strerror}") from error
    if head.startswith(b"#!"):
        python = _python_of(head, environment, directory)
        if python is None:
            raise UnknownCode(f"`{path.name}` is a script, and may start any program")
        search = [path.resolve().parent, *_search_of(python, environment)]
        programs = environment.get("PATH", os.defpath)
        return _with_program(python, python_code(path, search, directory, programs))
    if path.stat().st_size > MOST_BINARY:
        raise UnknownCode(f"`{path.name}` is too large a program to be compared")
    for word in args:
        if (directory / word).is_file() and _is_text(directory / word):
            raise UnknownCode(f"`{path.name}` reads `{word}`, which may name other files")
    return CodeFiles({str(path): checksum(path)})


def _with_program(python: Path, found: CodeFiles) -> CodeFiles:
    """Add the interpreter, by its place and its time."""
    found.packages[str(python)] = str(identity(python))
    return found


def _on_path(command: str, environment: Mapping[str, str], directory: Path) -> Path:
    """The file of a command.

    Raises:
        UnknownCode: It was not found.
    """
    if os.sep in command:
        path = directory / Path(command).expanduser()
        found = str(path) if path.is_file() else None
    else:
        found = shutil.which(command, path=environment.get("PATH", os.defpath))
    if found is None:
        raise UnknownCode(f"the program `{command}` was not found")
    return Path(found)


def _python_of(head: bytes, environment: Mapping[str, str], directory: Path) -> Path | None:
    """The Python of a script's first line; None if it is for another program."""
    if (long := _LONG_SHEBANG.match(head)) is not None:
        return Path(os.fsdecode(long[1]))
    found = _SHEBANG.match(head)
    if found is None:
        return None
    program = os.fsdecode(found[1])
    if Path(program).name == "env" and found[2]:
        program = os.fsdecode(found[2])
    if not _PYTHON.match(Path(program).name):
        return None
    return _on_path(program, environment, directory)


_WITH_VALUE: Final = ("-W", "-X", "--check-hash-based-pycs")


def _of_python(
    python: Path, args: list[str], environment: Mapping[str, str], directory: Path
) -> CodeFiles:
    search = _search_of(python, environment)
    around = (directory, environment.get("PATH", os.defpath))
    while args:
        word = args.pop(0)
        if word in _WITH_VALUE:
            del args[:1]
        elif word == "-m" and args:
            return code_of_module(args[0], [directory, *search], *around)
        elif word.startswith("-m") and len(word) > 2:
            return code_of_module(word[2:], [directory, *search], *around)
        elif word == "-c" and args:
            return code_of_text(args[0], [directory, *search], *around)
        elif not word.startswith("-"):
            path = directory / word
            if not path.is_file():
                raise UnknownCode(f"the file `{word}` was not found")
            return python_code(path, [path.resolve().parent, *search], *around)
    raise UnknownCode("Python is started without a program")


def _search_of(python: Path, environment: Mapping[str, str]) -> list[Path]:
    """Where an interpreter looks for modules, beside the directory of its program."""
    given = environment.get("PYTHONPATH", "").split(os.pathsep)
    found = [Path(each) for each in given if each]
    prefixes = [python.parent.parent, *_base_prefixes(python)]
    if os.path.realpath(python) == os.path.realpath(sys.executable):
        prefixes += [Path(sys.prefix), Path(sys.base_prefix)]
    sites: list[Path] = []
    for prefix in dict.fromkeys(prefixes):
        for name in _SITE:
            sites += sorted(prefix.glob(f"lib*/python3*/{name}"))
    home = environment.get("HOME")
    sites += sorted(Path(home).glob(".local/lib/python3*/site-packages")) if home else []
    return [*found, *sites, *(each for site in sites for each in _named_by(site))]


def _base_prefixes(python: Path) -> Iterator[Path]:
    """The prefix of the Python that an environment was made from."""
    try:
        text = (python.parent.parent / "pyvenv.cfg").read_text()
    except (OSError, ValueError):
        yield Path(os.path.realpath(python)).parent.parent
        return
    for line in text.splitlines():
        key, _, value = line.partition("=")
        if key.strip() == "home":
            yield Path(value.strip()).parent


def _named_by(site: Path) -> Iterator[Path]:
    """The directories that the ``.pth`` files of a directory of packages add."""
    for file in sorted(site.glob("*.pth")):
        try:
            lines = file.read_text(errors="replace").splitlines()
        except OSError:
            continue
        yield from (site / line.strip() for line in lines if line[:1] not in ("", "#", " "))


# Objects of this process


def code_of_object(found: Any, folder: Path | None) -> CodeFiles:
    """The code of a function or a class, and the values that a function has from around it.

    Args:
        folder: The directory of the registry file that names it.

    Raises:
        UnknownCode: It has a state of its own, or its code is in no file.
    """
    function = _function_of(found)
    note = _captured(function)
    module = sys.modules.get(getattr(function, "__module__", "") or "")
    file = getattr(module, "__file__", None)
    code = getattr(function, "__code__", None)
    if code is not None and not str(code.co_filename).startswith("<"):
        file = code.co_filename
    if not file or not Path(file).is_file():
        raise UnknownCode("its code is in no file")
    path = Path(file)
    walk = CodeFiles()
    if _top_package(path) == "fractale":
        walk.files[str(path)] = checksum(path)
        walk.packages["fractale"] = __version__
    else:
        search = [root_of(path), *([folder] if folder else []), *map(Path, filter(None, sys.path))]
        programs = os.environ.get("PATH", os.defpath)
        walk = python_code(path, search, Path.cwd(), programs)
    check_loaded(walk.files)
    walk.packages["python"] = sys.version
    walk.packages["object"] = f"{getattr(function, '__qualname__', '')} {note}".strip()
    return walk


_INNER: Final = ("func", "coroutine", "fn")
"""The attributes of LangChain's and FastMCP's tools that have the function."""


def _function_of(found: Any) -> Callable[..., Any]:
    if isinstance(found, type):
        return found
    if not hasattr(found, "__code__"):
        for name in _INNER:
            inner = getattr(found, name, None)
            if callable(inner) and hasattr(inner, "__code__"):
                return inner
        raise UnknownCode("it is an object with a state of its own")
    if getattr(found, "__self__", None) is not None:
        raise UnknownCode("it is a method of an object with a state of its own")
    return found


def _captured(function: Any) -> str:
    """The values that a function has beside its text: defaults, and variables from around it.

    Raises:
        UnknownCode: One is not a plain value.
    """
    cells = getattr(function, "__closure__", None) or ()
    try:
        values = [cell.cell_contents for cell in cells]
    except ValueError as error:
        raise UnknownCode("it uses a variable that has no value yet") from error
    values += list(getattr(function, "__defaults__", None) or ())
    keyword: dict[str, Any] = getattr(function, "__kwdefaults__", None) or {}
    values += list(keyword.values())
    for value in values:
        if not isinstance(value, (str, int, float, bool, bytes, type(None), Path)):
            raise UnknownCode(
                f"it uses a {type(value).__name__} of the code around it, which may change"
            )
    return repr(values) if values else ""
