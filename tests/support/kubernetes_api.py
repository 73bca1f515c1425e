"""Stands in for a Kubernetes API server: real HTTPS on this machine, for `kubectl` and clients.

It knows jobs, their pods and logs as the API documents them: discovery, create, get, list by
label, delete, and `status` with conditions. A pod's container is a process of this machine, so
its log and exit code are real; of the image only the name counts: one that begins with `missing`
can't be pulled. There is no scheduler, no kubelet and no admission.
"""

from __future__ import annotations

import json
import re
import ssl
import subprocess
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

from servers.certificates import make_certificate

TOKEN = "stand-in-token"
VERBS = ["create", "delete", "get", "list", "patch", "update", "watch"]
RESOURCES = {
    "v1": [("pods", "pod", "Pod"), ("events", "event", "Event"), ("pods/log", "", "Pod")],
    "batch/v1": [("jobs", "job", "Job")],
}
JOBS = re.compile(r"/apis/batch/v1/namespaces/(?P<ns>[^/]+)/jobs(?:/(?P<name>[^/]+))?")
PODS = re.compile(r"/api/v1/namespaces/(?P<ns>[^/]+)/pods(?:/(?P<name>[^/]+))?(?P<log>/log)?")


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class KubernetesApi:
    """The server, on a free port; `config` is a kubeconfig for it."""

    def __init__(self, folder: Path, *, run_seconds: float = 0.0) -> None:
        self.folder, self.run_seconds = folder, run_seconds
        self.jobs: dict[tuple[str, str], dict[str, Any]] = {}
        self.requests: list[str] = []
        self.away: Callable[[str], bool] = lambda path: False
        """Of which paths the server is out of service just now."""
        self.lock = threading.RLock()

    def __enter__(self) -> Self:
        self.folder.mkdir(exist_ok=True)
        certificate = make_certificate(self.folder)
        self._http = _Http(self)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*certificate)
        self._http.socket = context.wrap_socket(self._http.socket, server_side=True)
        threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True).start()
        self.config = self.folder / "config"
        self.config.write_text(json.dumps(self._kubeconfig(certificate[0])))
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()

    def _kubeconfig(self, certificate: Path) -> dict[str, Any]:
        url = f"https://127.0.0.1:{self._http.server_address[1]}"
        cluster = {"server": url, "certificate-authority": str(certificate)}
        return {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "stand-in",
            "contexts": [{"name": "stand-in", "context": {"cluster": "c", "user": "u"}}],
            "clusters": [{"name": "c", "cluster": cluster}],
            "users": [{"name": "u", "user": {"token": TOKEN}}],
        }

    def create(self, namespace: str, job: dict[str, Any]) -> tuple[int, Any]:
        name = job["metadata"]["name"]
        with self.lock:
            if (namespace, name) in self.jobs:
                return 409, failure(409, "AlreadyExists", f'jobs.batch "{name}" already exists')
            uid = f"00000000-0000-0000-0000-{len(self.jobs):012d}"
            labels = {"controller-uid": uid, "job-name": name}
            job["metadata"] |= {
                "namespace": namespace,
                "uid": uid,
                "creationTimestamp": now(),
                "resourceVersion": "1",
            }
            job["spec"] |= {"selector": {"matchLabels": {"controller-uid": uid}}}
            job["spec"]["template"].setdefault("metadata", {})["labels"] = labels
            job["status"] = {"active": 1, "startTime": now()}
            self.jobs[namespace, name] = job
            job["pod"] = self._pod(namespace, name, uid, labels, job["spec"]["template"]["spec"])
        threading.Thread(target=self._run, args=(job,), daemon=True).start()
        return 201, shown(job)

    def _pod(
        self, namespace: str, name: str, uid: str, labels: dict[str, str], spec: dict[str, Any]
    ) -> dict[str, Any]:
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": f"{name}-x7k2p",
                "namespace": namespace,
                "labels": labels,
                "uid": uid.replace("0000-", "1111-", 1),
                "creationTimestamp": now(),
                "ownerReferences": [
                    {"apiVersion": "batch/v1", "kind": "Job", "name": name, "uid": uid}
                ],
            },
            "spec": spec,
            "status": {"phase": "Pending"},
            "log": "",
        }

    def _run(self, job: dict[str, Any]) -> None:
        pod, container = job["pod"], job["spec"]["template"]["spec"]["containers"][0]
        if container.get("image", "").startswith("missing"):
            waiting = {"reason": "ImagePullBackOff", "message": "Back-off pulling image"}
            self._state(pod, container, "Pending", {"waiting": waiting})
            return
        self._state(pod, container, "Running", {"running": {"startedAt": now()}})
        time.sleep(self.run_seconds)
        words = [*container.get("command", []), *container.get("args", [])]
        done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
        with self.lock:
            pod["log"] = done.stdout + done.stderr
        reason = "Error" if done.returncode else "Completed"
        ended = {"exitCode": done.returncode, "reason": reason, "finishedAt": now()}
        phase = "Failed" if done.returncode else "Succeeded"
        self._state(pod, container, phase, {"terminated": ended})
        with self.lock:
            job["status"] = self._ended(done.returncode)

    @staticmethod
    def _ended(code: int) -> dict[str, Any]:
        kind = {"type": "Complete"}
        if code:
            message = "Job has reached the specified backoff limit"
            kind = {"type": "Failed", "reason": "BackoffLimitExceeded", "message": message}
        count = {"failed": 1} if code else {"succeeded": 1, "completionTime": now()}
        return {"startTime": now(), "conditions": [{**kind, "status": "True"}], **count}

    def _state(self, pod: Any, container: Any, phase: str, state: dict[str, Any]) -> None:
        told = {"name": container.get("name", "main"), "state": state, "ready": False}
        told |= {"image": container.get("image", ""), "imageID": "", "restartCount": 0}
        with self.lock:
            pod["status"] = {"phase": phase, "containerStatuses": [told]}


def shown(thing: dict[str, Any]) -> dict[str, Any]:
    """An object without what only this server keeps in it."""
    return {key: value for key, value in thing.items() if key not in ("pod", "log")}


def failure(code: int, reason: str, message: str) -> dict[str, Any]:
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": message,
        "reason": reason,
        "code": code,
    }


class _Http(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, api: KubernetesApi) -> None:
        self.api = api
        super().__init__(("127.0.0.1", 0), _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is nothing to tell."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Http

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._answer("GET")

    def do_POST(self) -> None:
        self._answer("POST")

    def do_PATCH(self) -> None:
        self._answer("PATCH")

    def do_DELETE(self) -> None:
        self._answer("DELETE")

    def _answer(self, verb: str) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        url = urlsplit(self.path)
        self.server.api.requests.append(f"{verb} {url.path}")
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._send(401, failure(401, "Unauthorized", "Unauthorized"))
        if self.server.api.away(url.path):
            return self._send(503, failure(503, "ServiceUnavailable", "it is restarting"))
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        with self.server.api.lock:
            code, answer = self._route(verb, url.path, query, body)
        return self._send(code, answer)

    def _route(self, verb: str, path: str, query: dict[str, str], body: bytes) -> tuple[int, Any]:
        if (found := DISCOVERY.get(path)) is not None:
            return 200, found
        if match := JOBS.fullmatch(path):
            return self._jobs(verb, match["ns"], match["name"], body)
        if match := PODS.fullmatch(path):
            return self._pods(match["ns"], match["name"], bool(match["log"]), query)
        return 404, failure(404, "NotFound", f"the server could not find {path}")

    def _jobs(self, verb: str, namespace: str, name: str | None, body: bytes) -> tuple[int, Any]:
        jobs = self.server.api.jobs
        if verb == "POST":
            return self.server.api.create(namespace, json.loads(body))
        if name is None:
            return 200, listed("batch/v1", "JobList", [shown(job) for job in jobs.values()])
        job = jobs.get((namespace, name))
        if job is None:
            if verb == "PATCH" and self.headers["Content-Type"].startswith("application/apply"):
                return self.server.api.create(namespace, json.loads(body))
            return 404, failure(404, "NotFound", f'jobs.batch "{name}" not found')
        if verb == "DELETE":
            del jobs[namespace, name]
        return 200, shown(job)

    def _pods(
        self, namespace: str, name: str | None, log: bool, query: dict[str, str]
    ) -> tuple[int, Any]:
        pods = [job["pod"] for (ns, _), job in self.server.api.jobs.items() if ns == namespace]
        if name is None:
            wanted = dict(
                pair.split("=") for pair in query.get("labelSelector", "").split(",") if pair
            )
            there = [p for p in pods if wanted.items() <= p["metadata"]["labels"].items()]
            return 200, listed("v1", "PodList", [shown(pod) for pod in there])
        pod = next((each for each in pods if each["metadata"]["name"] == name), None)
        if pod is None:
            return 404, failure(404, "NotFound", f'pods "{name}" not found')
        if not log:
            return 200, shown(pod)
        if pod["status"]["phase"] == "Pending":
            message = f'container "main" in pod "{name}" is waiting to start: trying and failing'
            return 400, failure(400, "BadRequest", message)
        return 200, "".join(pod["log"].splitlines(True)[-int(query.get("tailLines", 10**6)) :])

    def _send(self, code: int, answer: Any) -> None:
        kind, content = "application/json", json.dumps(answer).encode()
        if isinstance(answer, str):
            kind, content = "text/plain", answer.encode()
        elif answer == {} and "protobuf" in self.headers.get("Accept", ""):
            # An empty description of the API: kubectl before 1.27 then leaves validation.
            kind, content = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf", b""
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def listed(version: str, kind: str, items: list[Any]) -> dict[str, Any]:
    return {
        "apiVersion": version,
        "kind": kind,
        "metadata": {"resourceVersion": "1"},
        "items": items,
    }


def _resources(version: str) -> dict[str, Any]:
    found = [
        {"name": name, "singularName": one, "namespaced": True, "kind": kind, "verbs": VERBS}
        for name, one, kind in RESOURCES[version]
    ]
    return {"kind": "APIResourceList", "groupVersion": version, "resources": found}


_BATCH = {"groupVersion": "batch/v1", "version": "v1"}
_FIELD_VALIDATION = {"name": "fieldValidation", "in": "query", "schema": {"type": "string"}}
_KIND = {"group": "batch", "kind": "Job", "version": "v1"}
DISCOVERY: dict[str, Any] = {
    "/version": {"major": "1", "minor": "32", "gitVersion": "v1.32.0-stand-in"},
    "/api": {"kind": "APIVersions", "versions": ["v1"]},
    "/apis": {
        "kind": "APIGroupList",
        "apiVersion": "v1",
        "groups": [{"name": "batch", "versions": [_BATCH], "preferredVersion": _BATCH}],
    },
    "/api/v1": _resources("v1"),
    "/apis/batch/v1": _resources("batch/v1"),
    "/openapi/v2": {},
    "/openapi/v3": {
        "paths": {"apis/batch/v1": {"serverRelativeURL": "/openapi/v3/apis/batch/v1?hash=1"}}
    },
    "/openapi/v3/apis/batch/v1": {
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": "v1.32.0"},
        "paths": {
            "/apis/batch/v1/namespaces/{namespace}/jobs/{name}": {
                "patch": {
                    "parameters": [_FIELD_VALIDATION],
                    "responses": {},
                    "x-kubernetes-group-version-kind": _KIND,
                }
            }
        },
        "components": {"schemas": {}},
    },
}
