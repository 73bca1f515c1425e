"""fractale 0.1.0's server files, unchanged, served to a client over HTTP."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastmcp import Client

import forked
from flux_python import has_flux, python_path
from scenarios import Reader

SERVERS = Path(__file__).parents[1] / "support" / "of_0_1_0" / "servers"
TOKEN = "correct-horse-battery"
FILES = [
    "filesystem_find_directory",
    "filesystem_find_file",
    "filesystem_list_directory",
    "filesystem_read_file",
]
FLUX = [
    "flux_cancel_job",
    "flux_get_job_info",
    "flux_get_job_logs",
    "flux_resource_list",
    "flux_sched_qmanager_stats",
    "flux_submit_job",
    "flux_validate_batch_jobspec",
    "flux_validate_jobspec",
]
EXPERTS = ["transform_jobspec_expert", "validate_jobspec_expert"]
K8S = ["apis", "apply", "crds", "create", "describe", "events", "get", "logs"]
SPACK = ["spack_find", "spack_info", "spack_install", "spack_list", "spack_spec"]
NEEDS_FLUX = ("flux-gemini", "run-job", "run-spack")


@contextlib.contextmanager
def served(reader: Reader, file: Path, **variables: str) -> Iterator[str]:
    """The address of a file's server, on a free port."""
    words = ["serve", str(file), "--port", "0", "--host", "127.0.0.1"]
    process = forked.start(words, cwd=reader.folder, env={**reader.environment, **variables})
    try:
        said = ""
        for line in process.stderr:
            said += line
            if "serving at " in line:
                yield line.partition("serving at ")[2].split()[0]
                return
        raise AssertionError(said)
    finally:
        process.terminate()
        process.communicate(timeout=60)


async def offered(url: str, token: str | None = None) -> tuple[list[str], list[str]]:
    async with Client(url, auth=token) as client:
        tools = sorted(tool.name for tool in await client.list_tools())
        prompts = sorted(prompt.name for prompt in await client.list_prompts())
    return tools, prompts


def environment(name: str) -> dict[str, str]:
    """What the file's imports need."""
    if name in NEEDS_FLUX and (path := python_path()):
        return {"PYTHONPATH": path}
    if name == "kubernetes-job":
        pytest.importorskip("mcp_kubernetes_server")
    return {}


@pytest.mark.parametrize(
    ("name", "tools", "prompts"),
    [
        ("docker-build", ["build_container"], ["build_expert"]),
        ("flux-gemini", ["validate_flux_jobspec"], []),
        ("kubernetes-job", [*(f"k8s_{n}" for n in K8S), "setup_client", "sleep_timer"], []),
        ("run-job", [*FILES, *FLUX, "sleep_timer"], EXPERTS),
    ],
)
async def test_a_server_file_of_0_1_0_is_served_as_it_is(tmp_path, name, tools, prompts):
    variables = environment(name)
    with served(Reader(tmp_path), SERVERS / f"{name}.yaml", **variables) as url:
        assert await offered(url) == (tools, prompts)


async def test_docker_builds_file_listens_everywhere_only_with_a_token(tmp_path):
    """It says `host: 0.0.0.0`: as it is, it needs a token."""
    reader = Reader(tmp_path)
    done = reader("serve", str(SERVERS / "docker-build.yaml"), "--port", "0")
    assert done.returncode == 2
    assert "FRACTALE_MCP_TOKEN" in done.stderr
    with served(reader, SERVERS / "docker-build.yaml", FRACTALE_MCP_TOKEN=TOKEN) as url:
        assert await offered(url, TOKEN) == (["build_container"], ["build_expert"])


def test_entries_that_hpc_mcp_no_longer_has_are_told_with_the_nearest_there_are(tmp_path):
    pytest.importorskip("sqlalchemy")
    variables = environment("run-spack")
    done = Reader(tmp_path)("serve", str(SERVERS / "run-spack.yaml"), **variables)
    assert done.returncode == 3
    said = " ".join(done.stderr.split())
    assert "run-spack.yaml:14:11 unknown-name tools[11].path" in said
    assert "run-spack.yaml:15:11 unknown-name tools[12].path" in said
    assert "the module `hpc_mcp.db` has no `database_save`; near it: `database_insert`" in said
    assert "the module `hpc_mcp.db` has no `database_get`; near it: `database_insert`" in said
    assert "2 errors" in said


async def test_without_those_entries_it_is_served(tmp_path):
    variables = environment("run-spack")
    kept = (SERVERS / "run-spack.yaml").read_text().splitlines(keepends=True)
    file = tmp_path / "run-spack.yaml"
    file.write_text("".join(line for line in kept if "hpc_mcp.db." not in line))
    with served(Reader(tmp_path), file, **variables) as url:
        tools, prompts = await offered(url)
    assert tools == sorted([*FILES, *FLUX, *SPACK, "sleep_timer"])
    assert prompts == EXPERTS


async def test_or_with_optional_they_are_a_warning(tmp_path):
    variables = environment("run-spack")
    file = tmp_path / "run-spack.yaml"
    text = (SERVERS / "run-spack.yaml").read_text()
    for name in ("save", "get"):
        entry = f"  - path: hpc_mcp.db.database_{name}\n"
        text = text.replace(entry, f"{entry}    optional: true\n")
    file.write_text(text)
    with served(Reader(tmp_path), file, **variables) as url:
        assert "spack_install" in (await offered(url))[0]


def test_without_flux_it_says_what_to_install(tmp_path):
    pytest.importorskip("flux_mcp")
    if has_flux():
        pytest.skip("Flux is here")
    done = Reader(tmp_path)("serve", str(SERVERS / "flux-gemini.yaml"))
    assert done.returncode == 3
    said = " ".join(done.stderr.replace("|", " ").split())
    assert "it needs the module `flux`, which isn't installed: `pip install flux-python`" in said


def test_with_flux_python_and_without_flux_it_says_so(tmp_path):
    path = python_path()
    if not path:
        pytest.skip("Flux is here")
    done = Reader(tmp_path)(
        "serve", str(SERVERS / "flux-gemini.yaml"), PYTHONPATH=path.partition(":")[2]
    )
    assert done.returncode == 3
    said = " ".join(done.stderr.replace("|", " ").split())
    assert "libflux-core" in said
    assert "part of Flux itself, which must be installed on this machine" in said
