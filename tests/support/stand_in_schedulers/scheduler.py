"""A stand-in for PBS, LSF and Flux: it runs jobs as processes and answers as the real ones do.

What it says for PBS is what OpenPBS 23.06.06 was seen to say; for LSF what its manuals have. It is
no scheduler and proves nothing about one: it shows that what we send has the right form, and that
the answers are read rightly. Its state is a folder, a file per job and per element of an array.

    python scheduler.py PROGRAM ARGUMENT...      with FAKE_STATE in the environment

With FAKE_HISTORY, PBS keeps a history of ended jobs; a new server does not. FAKE_DELAY is how many
seconds after a job's end its output is delivered.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

STATE = Path(os.environ.get("FAKE_STATE", "."))
HISTORY = bool(os.environ.get("FAKE_HISTORY"))
DELAY = float(os.environ.get("FAKE_DELAY", "0.3"))
HOST = "pbshost"


def submit(script: str, log: str, variable: str, folder: str, **facts) -> str:
    """Start a job: a process that waits for it writes its end beside.

    Args:
        script: Its text; what `words` names is run by that program's own words.
        indices: Of an array, and `index_variable`: each element is started.
        spool: Its output goes to a file that is delivered after the end.
    """
    number = str(len(jobs()) + 101)
    job = {"id": number, "log": log, "state": "running", "code": None, **facts}
    if facts.get("held"):
        job["state"] = "pending"
    (STATE / f"{number}.sh").write_text(script)
    names = [f"{number}_{index}" for index in facts.get("indices", ())] or [number]
    _write(number, job)
    for name in names:
        if name != number:
            _write(name, {**job, "id": name})
        if not facts.get("held"):
            words = [sys.executable, __file__, "_run", name, variable, folder]
            subprocess.Popen(words, start_new_session=True, stdin=subprocess.DEVNULL)
    return number


def run(name: str, variable: str, folder: str) -> None:
    """Run a job to its end."""
    job = _read(name)
    number, _, index = name.partition("_")
    own = {**os.environ, variable: job.get("native", number)}
    if index:
        own |= {job["index_variable"]: index}
        if variable == "PBS_JOBID":
            own[variable] = f"{number}[{index}].{HOST}"
    hosts = ("hostA", "hostB") if variable == "LSB_JOBID" else ("node3", "node4")
    (STATE / f"{name}.nodes").write_text("\n".join((*hosts, hosts[0], "")))
    own |= {"PBS_NODEFILE": str(STATE / f"{name}.nodes")}
    own |= {"LSB_DJOB_HOSTFILE": str(STATE / f"{name}.nodes")}
    if job.get("bare"):
        own["PATH"] = "/usr/bin:/bin"
    log = job["log"].replace("^array_index^", index).replace("%I", index)
    spool = STATE / f"{name}.OU" if job.get("spool") else Path(log)
    with spool.open("ab") as out:
        process = subprocess.Popen(
            job.get("program") or ["/bin/sh", str(STATE / f"{number}.sh")],
            stdout=out,
            stderr=out,
            stdin=subprocess.DEVNULL,
            cwd=folder,
            env=own,
            start_new_session=True,
        )
        _write(name, {**_read(name), "pid": process.pid, "started": time.time()})
        code = process.wait()
    if job.get("spool"):
        _write(name, {**_read(name), "state": "leaving"})
        time.sleep(DELAY)
        if Path(log).parent.is_dir():
            Path(log).write_bytes(spool.read_bytes() + _read(name).get("notice", "").encode())
    _write(name, {**_read(name), "state": "ended", "code": code, "ended": time.time()})


def cancel(number: str, end: str = "cancelled", how: int = signal.SIGTERM) -> None:
    """End a job, or all elements of an array."""
    whole = [] if "_" in number else _read(number).get("indices", [])
    for name in [f"{number}_{index}" for index in whole] or [number]:
        job = _read(name)
        if job["state"] == "ended":
            continue
        if job["state"] == "pending":
            _write(name, {**job, "state": "ended", "end": end, "code": None, "ended": time.time()})
            continue
        deadline = time.monotonic() + 30
        while "pid" not in job and time.monotonic() < deadline:
            time.sleep(0.02)
            job = _read(name)
        _write(name, {**_read(name), "end": end})
        with contextlib.suppress(ProcessLookupError):  # it has just ended
            os.killpg(job["pid"], how)


def jobs() -> list[dict]:
    """The jobs that were submitted, without the elements of arrays."""
    return [_read(path.stem) for path in sorted(STATE.glob("*.json")) if "_" not in path.stem]


def _known(number: str) -> bool:
    return (STATE / f"{number}.json").exists()


def _read(number: str) -> dict:
    return json.loads((STATE / f"{number}.json").read_text())


def _write(number: str, job: dict) -> None:
    temporary = STATE / f".{number}.{os.getpid()}"
    temporary.write_text(json.dumps(job))
    temporary.replace(STATE / f"{number}.json")


def option(words: list[str], name: str) -> str:
    return words[words.index(name) + 1] if name in words else ""


# PBS: qsub(1B), qstat(1B), qselect(1B), qdel(1B), qsig(1B)


def qsub(words: list[str]) -> None:
    if option(words, "-q") == "absent":
        sys.exit("qsub: Unknown queue")
    facts: dict = {"words": words, "spool": True, "held": option(words, "-q") == "held"}
    own, script = words, ""
    if "--" in words:
        # No PATH of ours, and the home folder; the output goes there, too.
        own, program = words[: words.index("--")], words[words.index("--") + 1 :]
        found = program[0] if "/" in program[0] else "/nowhere/" + program[0]
        facts |= {"bare": True, "program": ["/bin/sh", "-c", shlex.join([found, *program[1:]])]}
    elif words and Path(words[-1]).is_file():
        script = Path(words[-1]).read_text()
    else:
        script = sys.stdin.read()
        facts["bare"] = True
    name = option(own, "-N") or "STDIN"
    facts["name"] = name
    number = len(jobs()) + 101
    if range_ := option(own, "-J"):
        found = re.fullmatch(r"(\d+)-(\d+)(?::(\d+))?(?:%(\d+))?", range_)
        if not found or int(found[1]) >= int(found[2]):
            sys.exit("qsub: illegal -J value")
        if option(own, "-r") != "y":
            sys.exit("qsub:  cannot submit non-rerunable Array Job")
        indices = list(range(int(found[1]), int(found[2]) + 1, int(found[3] or 1)))
        facts |= {"indices": indices, "index_variable": "PBS_ARRAY_INDEX"}
    facts["native"] = f"{number}{'[]' if range_ else ''}.{HOST}"
    log = option(own, "-o") or f"{os.environ['HOME']}/{name}.o{number}"
    submit(script, log, "PBS_JOBID", os.environ["HOME"], **facts)
    print(facts["native"])


def qselect(words: list[str]) -> None:
    if "-x" in words and not HISTORY:
        print("qselect: PBS is not configured to maintain job history", file=sys.stderr)
        return
    for job in jobs():
        if job["name"] == option(words, "-N") and ("-x" in words or not _over(job)):
            print(job["native"])


def _over(job: dict) -> bool:
    names = [f"{job['id']}_{index}" for index in job.get("indices", ())] or [job["id"]]
    return all(_read(name)["state"] == "ended" for name in names)


def qstat(words: list[str]) -> None:
    if "-Q" in words:
        queue = {"enabled": "True", "started": "True", "resources_max": {"walltime": "01:00:00"}}
        print(json.dumps({"Queue": {"workq": queue}}))
        return
    told, code = {}, 0
    for native in [word for word in words if re.match(r"\d", word)]:
        number = re.match(r"\d+", native)[0]
        if "-x" in words and not HISTORY:
            print(f"qstat: PBS is not configured to maintain job history {native}", file=sys.stderr)
        elif not _known(number) or (not HISTORY and _over(_read(number))):
            print(f"qstat: Unknown Job Id {native}", file=sys.stderr)
            code = 153
        elif "-x" not in words and _over(_read(number)):
            print(
                f"qstat: {native} Job has finished, use -x or -H to obtain historical job "
                "information",
                file=sys.stderr,
            )
            code = 35
        else:
            told |= _told_by_pbs(_read(number))
    answer = {"timestamp": int(time.time()), "pbs_version": "23.06.06", "pbs_server": HOST}
    print(json.dumps({**answer, "Jobs": told} if told else answer, indent=4))
    sys.exit(code)


def _told_by_pbs(job: dict) -> dict[str, dict]:
    """A job, or an array and each of its elements."""
    if not job.get("indices"):
        return {job["native"]: _facts(job)}
    over = _over(job)
    elements = {index: _read(f"{job['id']}_{index}") for index in job["indices"]}
    codes = [each["code"] for each in elements.values() if each["state"] == "ended"]
    whole = {"Job_Name": job["name"], "job_state": "F" if over else "B", "array": "True"}
    whole |= {"comment": "Job Array Began at Mon Nov 30 at 06:57"}
    if codes:
        whole["Exit_status"] = int(any(codes))
    told = {job["native"]: whole}
    for index, each in elements.items():
        facts = _facts(each)
        if each["state"] == "ended" and (not HISTORY or (over and each.get("end") == "deleted")):
            # Of an ended element without a record it shows those of the array.
            facts = {**whole, "job_state": "F" if over else "X", "comment": "Subjob finished"}
            del facts["array"]
        elif each["state"] != "pending":
            facts |= {"array_id": job["native"], "array_index": index}
        told[f"{job['id']}[{index}].{HOST}"] = facts
    return told


def _facts(job: dict) -> dict:
    letter = {"pending": "Q", "running": "R", "leaving": "E", "ended": "F"}[job["state"]]
    told = {"Job_Name": job["name"], "job_state": letter, "qtime": _clock(time.time())}
    told |= {"comment": job.get("comment", "Not Running: Insufficient amount of resource: ncpus ")}
    found = re.search(r"walltime=([\d:]+)", " ".join(job["words"]))
    told["Resource_List"] = {"walltime": found[1]} if found else {}
    if job["state"] != "pending" and "pid" in job:
        told |= {"exec_host": "node3/0*4+node4/0*4+node3/1", "substate": 42}
        told |= {"stime": _clock(job["started"])}
        told["comment"] = f"Job run at Mon Nov 30 at 06:58 on ({HOST}:ncpus=1)"
    if job["state"] == "ended":
        told["history_timestamp"] = int(job.get("ended", 0))
        code, end = job["code"], job.get("end")
        how, substate = ("failed", 93) if code else ("finished", 92)
        if code is not None:
            told["Exit_status"] = code if code >= 0 else 256 - code
        if end in ("cancelled", "deleted"):
            # 0, whatever the script made of the signal.
            how, substate = "terminated", 91
            if "pid" in job:
                told["Exit_status"] = 0
        if end == "killed":
            told["Exit_status"] = 0
            how, substate = "finished", 92
        if "status" in job:
            told["Exit_status"] = job["status"]
        if end == "walltime":
            told["Exit_status"] = -29
            how, substate = "exceeded resource walltime", 93
        told["substate"] = substate
        if "pid" in job or end == "walltime":
            told["comment"] += f" and {how}"
    return told


def _clock(when: float) -> str:
    return time.strftime("%a %b %d %H:%M:%S %Y", time.localtime(when))


def qdel(words: list[str]) -> None:
    found = re.match(r"(\d+)(?:\[(\d+)\])?", words[-1])
    if not _known(found[1]) or _over(_read(found[1])):
        sys.exit(f"qdel: Unknown Job Id {words[-1]}")
    if found[2]:
        cancel(f"{found[1]}_{found[2]}", "deleted")
    else:
        cancel(found[1])


def qsig(words: list[str]) -> None:
    number = re.match(r"\d+", words[-1])[0]
    cancel(number, "killed", getattr(signal, f"SIG{option(words, '-s')}"))


# LSF: bsub(1), bjobs(1), bkill(1), bqueues(1)


def bsub(words: list[str]) -> None:
    if option(words, "-q") == "absent":
        sys.exit("absent: No such queue. Job not submitted.")
    facts: dict = {}
    if found := re.fullmatch(r"[\w.-]+\[([\d,:-]+)\](?:%\d+)?", option(words, "-J")):
        indices: list[int] = []
        for part in found[1].split(","):
            first, last, step = re.fullmatch(r"(\d+)(?:-(\d+)(?::(\d+))?)?", part).groups()
            indices += range(int(first), int(last or first) + 1, int(step or 1))
        if 0 in indices:
            sys.exit("0: Bad job array index. Job not submitted.")
        facts = {"indices": indices, "index_variable": "LSB_JOBINDEX"}
    number = submit(
        sys.stdin.read(),
        option(words, "-o"),
        "LSB_JOBID",
        option(words, "-cwd"),
        description=option(words, "-Jd"),
        held=option(words, "-q") == "held",
        words=words,
        spool=True,
        notice="\n------------------------------------------------------------\n"
        "Sender: LSF System <lsf@hostA>\n",
        **facts,
    )
    print(f"Job <{number}> is submitted to queue <normal>.")


def bjobs(words: list[str]) -> None:
    records: list[dict] = []
    asked = [word for word in words if word.isdecimal()]
    for number in asked or [job["id"] for job in jobs()]:
        if not _known(number):
            records.append({"JOBID": number, "ERROR": f"Job <{number}> is not found"})
            continue
        job = _read(number)
        names = [f"{number}_{index}" for index in job.get("indices", ())] or [number]
        records += [_lsf(_read(name)) for name in names]
    print(json.dumps({"COMMAND": "bjobs", "JOBS": len(records), "RECORDS": records}))
    sys.exit(255 if any("ERROR" in record for record in records) else 0)


def _lsf(job: dict) -> dict:
    code, end = job.get("code"), job.get("end", "")
    if end == "killed":  # the wrapper with all that it started: seen as done
        code = 0
    stat = {"pending": "PEND", "running": "RUN", "leaving": "RUN"}.get(
        job["state"], "DONE" if code == 0 else "EXIT"
    )
    reasons = {
        "cancelled": "TERM_OWNER: job killed by owner",
        "deleted": "TERM_OWNER: job killed by owner",
        "runlimit": "TERM_RUNLIMIT: job killed after reaching LSF run time limit",
        "memlimit": "TERM_MEMLIMIT: job killed after reaching LSF memory usage limit",
    }
    number, _, index = job["id"].partition("_")
    ended = time.strftime("%b %d %H:%M L", time.localtime(job.get("ended", 0)))
    return {
        "JOBID": number,
        "JOBINDEX": index or "0",
        "STAT": stat,
        "EXIT_CODE": "" if not code else str(code if code > 0 else 128 - code),
        "EXIT_REASON": reasons.get(end, "") if stat == "EXIT" else "",
        "PEND_REASON": "Job slot limit reached;" if stat == "PEND" else "",
        "EXEC_HOST": "4*hostA:2*hostB" if stat != "PEND" else "",
        "DESCRIPTION": job["description"],
        "SUBMIT_TIME": time.strftime("%b %d %H:%M", time.localtime()),
        "START_TIME": "-",
        "FINISH_TIME": ended if job["state"] == "ended" else "-",
    }


def bkill(words: list[str]) -> None:
    found = re.match(r"(\d+)(?:\[(\d+)\])?", words[-1])
    if option(words, "-s") == "KILL":
        cancel(found[1], "killed", signal.SIGKILL)
    elif found[2]:
        cancel(f"{found[1]}_{found[2]}", "deleted")
    else:
        cancel(found[1])


def bqueues(_words: list[str]) -> None:
    print("QUEUE_NAME  PRIO STATUS       MAX JL/U JL/P JL/H NJOBS PEND RUN")
    print("normal        30  Open:Active  -   -    -    -    12    2    10")
    print("night         30  Open:Inact   -   -    -    -    0     0    0")


def main() -> None:
    program, words = sys.argv[1], sys.argv[2:]
    if program == "_run":
        run(*words)
        return
    asked = STATE / "asked"
    with asked.open("a") as file:
        file.write(f"{program} {shlex.join(words)}\n")
    if re.search(r"--fail|down", os.environ.get("FAKE_DOWN", "")):
        sys.exit(os.environ["FAKE_DOWN"])
    globals()[program](words)


if __name__ == "__main__":
    main()
