"""Programs that stand in for those of a site: scripts on a PATH of their own.

They say what the real ones say, as their manuals have it; where the real one is installed, there
are tests with it, too.
"""

from __future__ import annotations

from pathlib import Path


def write(folder: Path, name: str, body: str) -> Path:
    """A script of that name; only the shell itself is there for it to use."""
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


def says(folder: Path, name: str, **answers: str) -> Path:
    """A program that gives an answer to calls with a word in them, `_` to all others.

    The word `a_b` stands for `a-b`; an answer that begins with `!` goes to stderr, with exit
    code 1.
    """
    cases: list[str] = []
    for number, (word, answer) in enumerate(answers.items()):
        pattern = "*" if word == "_" else f'*"{word.replace("_", "-")}"*'
        file = folder / f".{name}.{number}"
        folder.mkdir(exist_ok=True)
        file.write_text(answer.removeprefix("!") + "\n")
        show = f'while IFS= read -r line; do printf "%s\\n" "$line"; done < {file}'
        cases.append(f"{pattern}) {show}{' >&2; exit 1' if answer.startswith('!') else ''};;")
    return write(folder, name, 'case "$*" in\n' + "\n".join(cases) + "\nesac")


SINFO_QUEUES = """\
debug|up|30:00|10:00|1/3/0/4|1-2|64|257000|(null)
batch*|up|2-00:00:00|n/a|10/80/6/96|1-infinite|64+|257000+|gpu:a100:4(S:0-1),nvme:1
old|down|infinite|n/a|0/0/2/2|2|16|64000|gpu:2"""
SINFO_NODES = """\
idle|80|64|257000|gpu:a100:4(S:0-1)|node[001-080]
allocated|11|64|257000|(null)|node[081-091]"""


def slurm(folder: Path) -> None:
    """A Slurm whose controller answers; it has no accounting."""
    # The queues begin with %P, the nodes with %T.
    says(folder, "sinfo", **{"__version": "slurm 22.05.8", "%P": SINFO_QUEUES, "%T": SINFO_NODES})


def submits(folder: Path, scheduler: str, *, answers: bool = True) -> None:
    """The programs by which jobs reach a scheduler; it answers that it is there, and no more."""
    programs = {
        "slurm": ("sbatch", "scontrol", "squeue"),
        "pbs": ("qsub", "qstat", "qdel", "qselect"),
        "flux": ("flux",),
    }
    for name in programs[scheduler]:
        write(folder, name, "echo it is UP" if answers else "echo it is DOWN; exit 1")


def no_engine(folder: Path) -> None:
    """A docker client whose engine does not answer."""
    client = '{"Client":{"Version":"28.2.2"},"Server":null}'
    write(
        folder,
        "docker",
        f"""case "$1" in
        --version) echo 'Docker version 28.2.2, build e6534b4';;
        version) echo '{client}'; echo 'Cannot connect to the Docker daemon at X.' >&2; exit 1;;
        esac""",
    )


def podman(folder: Path) -> None:
    """A podman that works."""
    info = '{"store":{"graphDriverName":"vfs"}}'
    says(folder, "podman", __version="podman version 4.3.1", info=info)
