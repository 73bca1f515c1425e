"""A stand-in for PBS, LSF and Flux: it runs jobs as processes and answers as their manuals say.

It is no scheduler and proves nothing about one: it shows that what we send has the documented form,
and that the documented answers are read rightly. Its state is a folder, a file per job.

    python scheduler.py PROGRAM ARGUMENT...      with FAKE_STATE in the environment
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

STATE = Path(os.environ.get("FAKE_STATE", "."))


def submit(script: str, log: str, variable: str, folder: str, **facts) -> str:
    """Start a job: a process that waits for it writes its end beside."""
    number = str(len(list(STATE.glob("*.json"))) + 101)
    job = {"id": number, "log": log, "state": "running", **facts}
    if facts.get("held"):
        job["state"] = "pending"
    _write(number, job)
    if not facts.get("held"):
        (STATE / f"{number}.sh").write_text(script)
        words = [sys.executable, __file__, "_run", number, log, variable, folder]
        subprocess.Popen(words, start_new_session=True, stdin=subprocess.DEVNULL)
    return number


def run(number: str, log: str, variable: str, folder: str) -> None:
    """Run a job to its end."""
    native = _read(number).get("native", number)
    with Path(log).open("ab") as out:
        process = subprocess.Popen(
            ["/bin/sh", str(STATE / f"{number}.sh")],
            stdout=out,
            stderr=out,
            stdin=subprocess.DEVNULL,
            cwd=folder,
            env={**os.environ, variable: native},
            start_new_session=True,
        )
        _write(number, {**_read(number), "pid": process.pid, "started": time.time()})
        code = process.wait()
    job = _read(number)
    _write(number, {**job, "state": "ended", "code": code, "ended": time.time()})


def cancel(number: str, end: str = "cancelled") -> None:
    job = _read(number)
    _write(number, {**job, "end": end})
    if job["state"] == "pending":
        _write(number, {**job, "state": "ended", "end": end, "code": None})
        return
    deadline = time.monotonic() + 30
    while "pid" not in job and time.monotonic() < deadline:
        time.sleep(0.02)
        job = _read(number)
    os.killpg(job["pid"], signal.SIGTERM)


def jobs() -> list[dict]:
    return [_read(path.stem) for path in sorted(STATE.glob("*.json"))]


def _read(number: str) -> dict:
    return json.loads((STATE / f"{number}.json").read_text())


def _write(number: str, job: dict) -> None:
    temporary = STATE / f".{number}.{os.getpid()}"
    temporary.write_text(json.dumps(job))
    temporary.replace(STATE / f"{number}.json")


def option(words: list[str], name: str) -> str:
    return words[words.index(name) + 1] if name in words else ""


# PBS: qsub(1B), qstat(1B), qselect(1B), qdel(1B)


def qsub(words: list[str]) -> None:
    if option(words, "-q") == "absent":
        sys.exit("qsub: Unknown queue")
    script = Path(words[-1]).read_text()
    number = submit(
        script,
        option(words, "-o"),
        "PBS_JOBID",
        "/tmp",
        name=option(words, "-N"),
        native=f"{len(list(STATE.glob('*.json'))) + 101}.server",
        held=option(words, "-q") == "held",
        words=words,
    )
    print(f"{number}.server")


def qselect(words: list[str]) -> None:
    for job in jobs():
        if job["name"] == option(words, "-N"):
            print(f"{job['id']}.server")


def qstat(words: list[str]) -> None:
    if "-Q" in words:
        queue = {"enabled": "True", "started": "True", "resources_max": {"walltime": "01:00:00"}}
        print(json.dumps({"Queue": {"workq": queue}}))
        return
    number = words[-1].partition(".")[0]
    if not (STATE / f"{number}.json").exists():
        print(f"qstat: Unknown Job Id {words[-1]}", file=sys.stderr)
        sys.exit(153)
    job = _read(number)
    letter = {"pending": "Q", "running": "R", "ended": "F"}[job["state"]]
    told = {"Job_Name": job["name"], "job_state": letter, "exec_host": "node3/0*4"}
    if job["state"] == "ended":
        code = job["code"]
        told["Exit_status"] = code if code is None or code >= 0 else 256 - code
        if job.get("end") == "cancelled":
            told["Exit_status"] = 271
    if job.get("end") == "walltime":
        told |= {"Exit_status": -29, "comment": "job killed: walltime 61 exceeded limit 60"}
    print(json.dumps({"Jobs": {words[-1]: told}}))


def qdel(words: list[str]) -> None:
    cancel(words[-1].partition(".")[0])


# LSF: bsub(1), bjobs(1), bkill(1), bqueues(1)


def bsub(words: list[str]) -> None:
    if option(words, "-q") == "absent":
        sys.exit("absent: No such queue. Job not submitted.")
    number = submit(
        sys.stdin.read(),
        option(words, "-o"),
        "LSB_JOBID",
        option(words, "-cwd"),
        description=option(words, "-Jd"),
        held=option(words, "-q") == "held",
        words=words,
    )
    print(f"Job <{number}> is submitted to queue <normal>.")


def bjobs(words: list[str]) -> None:
    which = [job for job in jobs() if words[-1] in ("-a", job["id"])]
    if not which:
        print(
            json.dumps(
                {
                    "COMMAND": "bjobs",
                    "JOBS": 0,
                    "RECORDS": [{"JOBID": words[-1], "ERROR": f"Job <{words[-1]}> is not found"}],
                }
            )
        )
        sys.exit(255)
    print(json.dumps({"COMMAND": "bjobs", "JOBS": len(which), "RECORDS": list(map(_lsf, which))}))


def _lsf(job: dict) -> dict:
    code, end = job.get("code"), job.get("end", "")
    stat = {"pending": "PEND", "running": "RUN"}.get(job["state"], "DONE" if code == 0 else "EXIT")
    reasons = {
        "cancelled": "TERM_OWNER: job killed by owner",
        "runlimit": "TERM_RUNLIMIT: job killed after reaching LSF run time limit",
        "memlimit": "TERM_MEMLIMIT: job killed after reaching LSF memory usage limit",
    }
    return {
        "JOBID": job["id"],
        "STAT": stat,
        "EXIT_CODE": "" if not code else str(code if code > 0 else 128 - code),
        "EXIT_REASON": reasons.get(end, "") if stat == "EXIT" else "",
        "PEND_REASON": "Job slot limit reached;" if stat == "PEND" else "",
        "EXEC_HOST": "4*hostA" if stat != "PEND" else "",
        "DESCRIPTION": job["description"],
    }


def bkill(words: list[str]) -> None:
    cancel(words[-1])


def bqueues(_words: list[str]) -> None:
    print("QUEUE_NAME|STATUS\nnormal|Open:Active\nnight|Open:Inact")


def main() -> None:
    program, words = sys.argv[1], sys.argv[2:]
    if program == "_run":
        run(*words)
        return
    if re.search(r"--fail|down", os.environ.get("FAKE_DOWN", "")):
        sys.exit(os.environ["FAKE_DOWN"])
    globals()[program](words)


if __name__ == "__main__":
    main()
