"""What a translated script runs to learn about its job, run with stand-ins for the programs."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from fractale.schedulers.body import translate_body
from fractale.schedulers.request import Request

STAND_INS = {
    "scontrol": '[ "$#/$1/$2/$3" = "3/show/hostnames/n[1-2]" ] && printf "n1\\nn2\\n"',
    "srun": 'printf "n2\\nn1\\n"',
    "flux": """\
if [ "$*" = "hostlist -led\\n" ]; then printf "n1\\nn2\\n"
elif [ "$*" = "getattr size" ]; then echo 2
elif [ "$*" = "getattr hostlist" ]; then echo "n[1-2]"
elif [ "$1" = run ]; then printf "n2\\nn1\\n"
else exit 1
fi""",
}


def output(folder: Path, body: list[str], source: str, target: str) -> str:
    """What a body prints, translated, in a job of two hosts."""
    for name, text in STAND_INS.items():
        program = folder / name
        program.write_text(f"#!/bin/bash\n{text}\n")
        program.chmod(0o755)
    hosts = folder / "hosts"
    hosts.write_text("n1\nn2\n")
    job = Request(nodes=2, tasks=2)
    found = translate_body(list(enumerate(body, 1)), source, target, job, shell="bash")
    assert not found.remains, found.remains
    script = folder / "job.sh"
    script.write_text("\n".join((*found.before, *found.lines)) + "\n")
    subprocess.run(["bash", "-n", str(script)], check=True)
    done = subprocess.run(
        ["bash", "-e", str(script)],
        cwd=folder,
        env={
            "PATH": f"{folder}:{os.environ['PATH']}",
            "SLURM_JOB_NODELIST": "n[1-2]",
            "PBS_NODEFILE": str(hosts),
            "LSB_DJOB_HOSTFILE": str(hosts),
            "HOME": str(folder),
            "PBS_O_WORKDIR": str(folder),
        },
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, (script.read_text(), done.stderr)
    return done.stdout


@pytest.mark.parametrize("target", ["slurm", "flux", "pbs", "lsf"])
@pytest.mark.parametrize(
    ("source", "line"),
    [
        ("cobalt", "cat $COBALT_NODEFILE"),
        ("pbs", "sort $PBS_NODEFILE"),
        ("lsf", "sort $LSB_DJOB_HOSTFILE"),
        ("slurm", "scontrol show hostnames"),
        ("slurm", 'scontrol show hostnames "$SLURM_JOB_NODELIST" > h; cat h'),
        ("flux", "flux hostlist -led'\\n' > h; cat h"),
        ("flux", "for h in $(flux hostlist -led'\\n'); do echo $h; done"),
    ],
)
def test_the_hosts_of_a_job_are_found(tmp_path: Path, source: str, line: str, target: str) -> None:
    if source != target:
        assert output(tmp_path, [line], source, target) == "n1\nn2\n"
