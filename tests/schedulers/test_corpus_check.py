"""The check of a corpus, on a few scripts of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

CHECK = Path(__file__).parents[1] / "corpus" / "check.py"

JOB = "#!/bin/bash\n#SBATCH --nodes=2\n#SBATCH --ntasks=8\n#SBATCH --mem=4G\nsrun ./a\n"
SCRIPTS = {
    "a/job.sbatch": JOB,
    "a/again.sbatch": JOB,
    "b/job.pbs": "#!/bin/bash\n#PBS -l select=2:ncpus=4\n#PBS -l walltime=1:00:00\n./b\n",
    "b/none.sh": "#!/bin/bash\necho nothing is asked for\n",
    "b/binary": "\0\1#SBATCH -n 1\n",
}


def test_it_reads_each_script_once_and_prints_a_line_for_each_direction(tmp_path):
    for name, text in SCRIPTS.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    words = [sys.executable, str(CHECK), str(tmp_path), "--no-sbatch", "--to", "flux,lsf"]
    ran = subprocess.run(words, capture_output=True, text=True, env=dict(os.environ), check=False)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith(f"2 scripts in {tmp_path}, 2 looked at")
    assert "slurm: scripts 1, read 1, refused by its own 0" in ran.stdout
    rows = [line.split() for line in ran.stdout.splitlines() if " \u2192 " in line[:9]]
    rows = [row for row in rows if len(row) > 8 and row[0] != "from"]
    assert [row[:3] for row in rows] == [
        ["pbs", "\u2192", "flux"],
        ["pbs", "\u2192", "lsf"],
        ["slurm", "\u2192", "flux"],
        ["slurm", "\u2192", "lsf"],
    ]
    assert all("100.0%" in row for row in rows)
