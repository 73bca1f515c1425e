"""Of `flux.job`: `JobspecV1`, `JobID`, `submit`, `job_list`, `get_job`, `cancel`."""

from __future__ import annotations

import os
import shlex

import scheduler

# A batch job is an instance of its own, whose broker writes into the same output.
INSTANCE = """\
#!/bin/sh
trap : TERM
{export}printf %s {script} > "$FAKE_STATE/$FLUX_JOB_ID.batch"
/bin/sh "$FAKE_STATE/$FLUX_JOB_ID.batch"; code=$?
[ $code = 0 ] || echo "broker.err[0]: rc2.0: tmp/script Exited (rc=$code) 0.6s" >&2
exit $code
"""
PENDING = {"pending": "SCHED", "running": "RUN"}


class JobID(int):
    """The id of a job, from a number or its ``f58`` text."""

    def __new__(cls, value) -> JobID:
        text = str(int(value)) if isinstance(value, int) else value.lstrip("fƒ")
        if not text.isdecimal():
            raise ValueError(f"{value} is not a valid Flux jobid")
        return super().__new__(cls, int(text))

    @property
    def f58plain(self) -> str:
        return f"f{int(self)}"


class JobspecV1:
    """A request; `setattr` and the properties are those that fractale uses."""

    def __init__(self, **facts) -> None:
        self.facts = facts
        self.cwd = self.stdout = self.stderr = self.queue = ""
        self.duration = 0.0
        self.environment: dict[str, str] = {}
        self.attributes: dict[str, object] = {}

    @classmethod
    def from_batch_command(
        cls, script, jobname, args=None, num_slots=1, cores_per_slot=1, gpus_per_slot=None,
        num_nodes=None, broker_opts=None, exclusive=False, conf=None, **kwargs,
    ):  # fmt: skip
        if not script.startswith("#!"):
            raise ValueError(f"{jobname} does not appear to start with '#!'")
        if num_nodes and num_nodes > num_slots:
            raise ValueError("node count must not be greater than task count")
        return cls(
            script=script,
            name=jobname,
            slots=num_slots,
            cores=cores_per_slot,
            gpus=gpus_per_slot,
            nodes=num_nodes,
        )

    def setattr(self, key, value) -> None:
        self.attributes[key] = value


def submit(_handle, jobspec) -> int:
    if jobspec.queue == "absent":
        raise OSError(22, "Invalid queue: absent")
    facts = dict(jobspec.facts)
    index = jobspec.environment.get("FRACTALE_INDEX")
    if index and index == os.environ.get("FAKE_KILLED_AT"):
        os.kill(os.getpid(), 9)
    asked = {**jobspec.attributes, "queue": jobspec.queue, "duration": jobspec.duration}
    script = INSTANCE.format(
        export=f"export FRACTALE_INDEX={index}\n" if index else "",
        script=shlex.quote(facts["script"]),
    )
    facts["script"] = script
    return int(
        scheduler.submit(
            facts.pop("script"),
            jobspec.stdout,
            "FLUX_JOB_ID",
            jobspec.cwd,
            held=jobspec.queue == "held",
            asked=asked,
            environment=jobspec.environment,
            **facts,
        )
    )


class _Listed:
    def __init__(self, found) -> None:
        self._found = found

    def get_jobs(self) -> list[dict]:
        return self._found


def job_list(_handle, max_entries=1000, attrs=None, name=None, **_others) -> _Listed:
    found = [
        {"id": int(job["id"]), "name": job["name"]}
        for job in scheduler.jobs()
        if name is None or job["name"] == name
    ]
    return _Listed(found[:max_entries])


def get_job(_handle, jobid) -> dict | None:
    for job in scheduler.jobs():
        if job["id"] == str(int(jobid)):
            return _told(job)
    return None


def _told(job: dict) -> dict:
    told = {
        "id": int(job["id"]),
        "name": job["name"],
        "nodelist": "" if job["state"] == "pending" else "corona[7-8]",
        "exception": {},
        "urgency": job.get("urgency", 16),
        "priority": job.get("urgency", 16),
        "queue": job["asked"]["queue"],
        "t_run": job.get("started", 0.0),
        "waitstatus": "",
    }
    if job.get("end") == "unsatisfiable":
        note = "unsatisfiable request: need 5 node(s), only 2 eligible"
        exception = {"type": "alloc", "severity": 0, "note": note}
        never = {"state": "INACTIVE", "result": "FAILED", "returncode": 1, "nodelist": ""}
        return {**told, **never, "t_run": 0.0, "exception": exception}
    if job["state"] != "ended":
        return {**told, "state": PENDING[job["state"]], "result": "", "returncode": ""}
    end, code = job.get("end"), job["code"]
    ended = {"state": "INACTIVE", "t_inactive": job.get("ended", 0.0)}
    if end == "cancelled":
        exception = {"type": "cancel", "severity": 0, "note": "cancelled by fractale"}
        return {**told, **ended, "result": "CANCELED", "returncode": -128, "exception": exception}
    if end == "timeout":
        exception = {"type": "timeout", "severity": 0, "note": "resource allocation expired"}
        return {**told, **ended, "result": "TIMEOUT", "returncode": 142, "exception": exception}
    if end == "node":
        exception = {"type": "node-failure", "severity": 0, "note": "lost contact with corona7"}
        return {**told, **ended, "result": "FAILED", "returncode": 1, "exception": exception}
    return {**told, **ended, "result": "COMPLETED" if code == 0 else "FAILED", "returncode": code}


def cancel(_handle, jobid, reason=None) -> None:
    if scheduler._read(str(int(jobid)))["state"] == "ended":
        raise OSError(22, "job is inactive")
    scheduler.cancel(str(int(jobid)))
