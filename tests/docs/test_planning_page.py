"""docs/planning.md: its complete plan runs with the registries that ship."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

from fractale.testing import Reply, ScriptedModel

ROOT = Path(__file__).parents[2]
REGISTRIES = [ROOT / "registries/jobs.yaml", ROOT / "registries/demo.yaml"]


def plans() -> list[str]:
    text = (ROOT / "docs/planning.md").read_text()
    return [block for block in re.findall(r"```yaml\n(.*?)```", text, re.S) if "steps:" in block]


async def test_its_plan_runs_with_what_ships(run_plan, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))  # no scheduler's programs
    (plan,) = plans()
    draft = {"steps": [{"name": "again", "tool": "queue_info", "inputs": {"scheduler": "local"}}]}
    model = ScriptedModel(["There is one queue.", Reply(data=draft)])
    seen = await run_plan(plan, model=model, registries=REGISTRIES, yes=True)
    assert seen.status == "success", seen.result.error
    assert seen.path == ["look:success", "tune/again:success", "tune:success", "report:success"]
    written = json.loads((tmp_path / "tuned.json").read_text())
    assert written["scheduler"] == "local"
    told = "\n".join(message.text for message in model.requests[1])
    for line in ("- job_submit(", "- queue_info(", "- optimize(", "- queues"):
        assert line in told
    assert "- write_text_file(" not in told
