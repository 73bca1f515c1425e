"""A job on Kubernetes and its log: the real kubectl, against a stand-in for the API server."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fractale.testing import ModelServer, Reply
from fractale.tools.kubernetes import kubernetes_job_wait
from kubernetes_api import KubernetesApi
from scenarios import Reader, by_turns, errors_of, path_of

pytestmark = pytest.mark.skipif(
    shutil.which("kubectl") is None, reason="kubectl is not here (Debian: kubernetes-client)"
)

PLAN = ("run", "plans/kubernetes-job.yaml", "-r", "registries/kubernetes.yaml")
HELLO = (Path(__file__).parents[2] / "plans" / "data" / "hello-job.yaml").read_text()


@pytest.fixture
def api(tmp_path):
    with KubernetesApi(tmp_path / "kubernetes", run_seconds=1) as server:
        yield server


@pytest.fixture
def reader(tmp_path, api):
    return Reader(tmp_path, KUBECONFIG=str(api.config))


def manifest(reader: Reader, old: str, new: str) -> str:
    (reader.folder / "job.yaml").write_text(HELLO.replace(old, new))
    return "manifest=job.yaml"


def test_a_job_runs_and_its_log_comes_back(reader, api):
    events = reader.events(*PLAN)
    assert path_of(events) == [f"{step}:success" for step in ("read", "apply", "wait", "tidy")]
    assert events[-1]["outputs"]["log"] == "Hello World\n"
    assert events[-1]["outputs"]["state"] == "completed"
    assert api.jobs == {}
    assert "DELETE /apis/batch/v1/namespaces/default/jobs/hello" in api.requests


def test_the_wait_says_how_the_job_is(reader):
    told = [e["message"] for e in reader.events(*PLAN) if e["event"] == "tool_progress"]
    assert any(message.startswith("active: ") for message in told), told
    assert told[-1].startswith("completed")


def test_a_job_that_fails_is_a_failure_with_its_exit_code_and_last_line(reader, api):
    broken = manifest(reader, "[echo, Hello World]", '[sh, -c, "echo no licence; exit 3"]')
    events = reader.events(*PLAN, "-i", broken)
    assert events[-1]["status"] == "failed"
    (error,) = errors_of(events, "wait")
    assert "BackoffLimitExceeded" in error
    assert "no licence" in error
    assert ("default", "hello") in api.jobs, "what failed is left to be looked at"


class Listener:
    """Takes what a call tells; what it told last is asked by the API server's outage."""

    def __init__(self):
        self.told = []

    async def report_progress(self, progress, total=None, message=None):
        self.told.append(message)


def applied(reader, api, monkeypatch, text: str = HELLO) -> None:
    """The job, made with the real kubectl; and the environment of the tool."""
    monkeypatch.setenv("KUBECONFIG", str(api.config))
    words = ["kubectl", "apply", "--validate=false", "-f", "-"]
    subprocess.run(words, input=text, text=True, check=True, capture_output=True)


async def test_an_api_server_that_is_away_for_a_moment_does_not_end_the_wait(
    reader, api, monkeypatch
):
    applied(reader, api, monkeypatch, HELLO.replace("[echo, Hello World]", "[sleep, '3']"))
    listener, missed = Listener(), []

    def away(path: str) -> bool:
        if listener.told and len(missed) < 2:
            missed.append(path)
            return True
        return False

    api.away = away
    said = await kubernetes_job_wait("hello", listener)
    assert said["state"] == "completed"
    assert len(missed) == 2
    assert any("it is restarting" in message for message in listener.told), listener.told


async def test_an_api_server_that_stays_away_ends_it(reader, api, monkeypatch):
    applied(reader, api, monkeypatch, HELLO.replace("busybox:1.36", "missing:1"))
    listener = Listener()
    api.away = lambda path: bool(listener.told)
    with pytest.raises(ValueError, match="it is restarting"):
        await kubernetes_job_wait("hello", listener, timeout=2)


async def test_a_job_that_was_deleted_ends_it(reader, api, monkeypatch):
    applied(reader, api, monkeypatch, HELLO.replace("busybox:1.36", "missing:1"))
    listener = Listener()

    def deleted(path: str) -> bool:
        if listener.told:
            api.jobs.clear()
        return False

    api.away = deleted
    with pytest.raises(ValueError, match="NotFound"):
        await kubernetes_job_wait("hello", listener)


def test_a_log_that_cannot_be_read_is_no_success_and_the_job_stays(reader, api):
    api.away = lambda path: path.endswith("/log")
    events = reader.events(*PLAN)
    assert path_of(events)[-1] == "wait:failure"
    assert "completed, but its log can't be read" in errors_of(events, "wait")[0]
    assert ("default", "hello") in api.jobs


def test_a_job_from_before_is_said_to_be_one(reader):
    """Kubernetes runs no job twice: what ends here is the one of the first run."""
    first = reader.end(*PLAN, "-i", "keep=true")
    assert first["outputs"]["applied"] == "job.batch/hello created"
    second = reader.end(*PLAN, "-i", "keep=true")
    assert second["outputs"]["applied"] == "job.batch/hello unchanged"


def test_an_image_that_cannot_be_pulled_is_told_when_the_time_is_over(reader):
    missing = manifest(reader, "busybox:1.36", "missing:1")
    events = reader.events(*PLAN, "-i", missing, "-i", "wait=2")
    (error,) = errors_of(events, "wait")
    assert "has not ended yet: Pending: ImagePullBackOff" in error


def test_a_manifest_that_is_none_fails_with_kubectls_words(reader):
    (reader.folder / "job.yaml").write_text("kind: Nothing\napiVersion: nowhere/v1\n")
    events = reader.events(*PLAN, "-i", "manifest=job.yaml")
    assert path_of(events)[-1] == "apply:failure"
    assert 'no matches for kind "Nothing"' in errors_of(events, "apply")[0]


def test_without_an_api_server_it_fails_and_says_so(reader):
    empty = reader.folder / "nothing"
    empty.write_text("")
    events = reader.events(*PLAN, KUBECONFIG=str(empty))
    assert path_of(events)[-1] == "apply:failure"
    assert "refused" in errors_of(events, "apply")[0]


def test_the_prompt_of_0_1_0_deploys_and_reads_the_log(tmp_path, api):
    """A model with the registry's tools; here it is scripted."""
    words = "Deploy a basic hello world job to Kubernetes and get the output log."
    model = by_turns(
        Reply(tool_calls=[("kubectl_apply", {"manifest": HELLO})]),
        Reply(tool_calls=[("kubernetes_job_wait", {"name": "hello"})]),
        Reply(tool_calls=[("kubectl_logs", {"pod_name": "job/hello"})]),
        lambda request: (
            "said" if "Hello World" in request.body["messages"][-1]["content"] else "no"
        ),
    )
    with ModelServer(model) as server:
        reader = Reader(tmp_path, server, KUBECONFIG=str(api.config))
        end = reader.end(
            "prompt", "--direct", "--yes", "-r", "registries/kubernetes.yaml", *words.split()
        )
    assert end["status"] == "success", end
    assert end["outputs"]["answer"] == "said"


# -- why not the other package ------------------------------------------------------------------


SETUP = """
import asyncio, sys
from mcp_kubernetes_server import create, get, kubeclient, logs
kubeclient.setup_client()
job = open(sys.argv[1]).read()
print("CREATE", asyncio.run(create.k8s_create(job))[:40])
print("GET", asyncio.run(get.k8s_get("job", "hello", "default"))[:120])
print("LOGS", asyncio.run(logs.k8s_logs("nothing"))[:40])
"""


def test_the_other_packages_errors_are_text_that_counts_as_an_answer(reader):
    """What docs/scenarios/kubernetes.md says of mcp-kubernetes-server 0.1.12."""
    pytest.importorskip("mcp_kubernetes_server")
    done = subprocess.run(
        [sys.executable, "-c", SETUP, "plans/data/hello-job.yaml"],
        cwd=reader.folder,
        env=reader.environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    said = dict(line.partition(" ")[::2] for line in done.stdout.splitlines() if line[:1].isupper())
    assert said["LOGS"].startswith("Error"), said
    assert said["GET"].startswith("Error"), said
