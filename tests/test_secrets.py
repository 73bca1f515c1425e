"""Secrets: 20 canaries in the environment, settings, inputs and tool output; none may show."""

from __future__ import annotations

import json
from dataclasses import replace

from fractale.settings import load_settings
from fractale.testing import FakeToolServer, ScriptedModel
from fractale.testing.model_server import Reply

CANARIES = {f"SITE{i}_{word}": f"canary-{word.lower()}-{i:02d}-7f3a" for i, word in enumerate(
    ["API_KEY", "TOKEN", "SECRET", "PASSWORD", "CREDENTIALS"] * 4
)}  # fmt: skip


async def test_no_secret_is_in_events_results_or_anything_on_disk(run_plan, tmp_path):
    environment = {"HOME": str(tmp_path), **CANARIES}
    settings = replace(load_settings(environment, tmp_path), state_dir=tmp_path / "state")
    secret = "the-secret-input-5521"
    server = FakeToolServer()
    received = []

    @server.tool
    def leak(password: str, text: str) -> dict:
        received.append(password)
        return {"echo": password, "all": list(CANARIES.values()), "large": " ".join(text * 50)}

    @server.tool
    def crash(password: str) -> dict:
        raise RuntimeError(f"cannot log in with {password} or {CANARIES['SITE1_TOKEN']}")

    model = ScriptedModel([Reply(text=f"The password is {secret}, {CANARIES['SITE0_API_KEY']}")])
    seen = await run_plan(
        """
        name: leaks
        inputs: {password: {secret: true, required: true}}
        steps:
          - {name: a, tool: leak, inputs: {password: "{{ inputs.password }}", text: hello}}
          - {name: b, instruction: "use {{ inputs.password }}", allow_tools: false}
          - {name: c, tool: crash, inputs: {password: "{{ inputs.password }}"}}
        """,
        tools=server,
        model=model,
        secrets={"password": secret},
        settings=settings,
        keep=True,
    )
    assert received == [secret], "the tool itself gets the real value"
    assert [s["outcome"] for s in seen.result.steps] == ["success", "success", "failure"]
    shown = json.dumps([event.as_dict() for event in seen.events]) + repr(seen.result)
    files = [path for path in (tmp_path / "state").rglob("*") if path.is_file()]
    assert any(path.name == "checkpoints.sqlite" for path in files)
    kept = b"".join(path.read_bytes() for path in files)
    for canary in (secret, *CANARIES.values()):
        assert canary not in shown
        assert canary.encode() not in kept
    assert "***" in shown
