"""`fractale config`: every setting and where it came from; nothing secret."""

from __future__ import annotations

import json

import pytest

from fractale.cli import run_command as fractale

SETTINGS = """
model: openai:gpt-4.1-mini
store: postgresql://anna:canary-1@db.example/runs
servers:
  site: {url: "https://mcp.site.example/mcp", token_env: SITE_TOKEN}
  flux: {command: flux-mcp}
  inside: {url: "http://anna:canary-4@host:8089/mcp?key=canary-5&x"}
  lone: {url: "https://canary-6@host/mcp"}
  started:
    command: some-mcp
    args: [--api-key, canary-7, --token=canary-8, API_KEY=canary-9, "--db=postgres://u:canary-10@h/d",
           "http://u:canary-11@h/", --verbose, plain]
  headed: {url: "http://host/mcp", headers: {X-Key: "${SITE_TOKEN}"}}
prices: {"openai:gpt-4.1-mini": {input: 0.4, output: 1.6}}
policy: {allow: ["site.read_*"], deny: [{tool: "*.shell", arguments: {command: "*rm *"}}]}
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project with settings of its own, of a person without any."""
    (tmp_path / ".fractale").mkdir()
    (tmp_path / ".fractale" / "config.yaml").write_text(SETTINGS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SITE_TOKEN", "canary-2")
    monkeypatch.setenv("OPENAI_API_KEY", "canary-3")
    for name in ("XDG_CONFIG_HOME", "FRACTALE_STORE", "FRACTALE_LLM_MODEL"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def test_servers_rules_and_prices_are_among_the_settings(project, capsys):
    assert fractale(["config", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    told = {row["setting"]: row["value"] for row in rows}
    assert told["servers.site"] == "http https://mcp.site.example/mcp (token set)"
    assert told["servers.flux"] == "stdio flux-mcp"
    assert told["servers.inside"] == "http http://anna:***@host:8089/mcp?key=***&x=***"
    assert told["servers.lone"] == "http https://***@host/mcp"
    assert told["servers.started"] == (
        "stdio some-mcp --api-key *** --token=*** API_KEY=*** --db=postgres://u:***@h/d "
        "http://u:***@h/ --verbose plain"
    )
    assert told["policy.allow"] == "site.read_*"
    assert "*rm *" in told["policy.deny"]
    price = told["prices.openai:gpt-4.1-mini"]
    assert price == "0.4 in, 1.6 out (US$ per million tokens)"
    file = str(project / ".fractale" / "config.yaml")
    assert all(file in row["from"] for row in rows if row["setting"].startswith("servers."))


def test_on_a_screen_each_has_a_line_and_no_secret_is_shown(project, capsys):
    assert fractale(["config"]) == 0
    said = capsys.readouterr().out
    lines = {line.split()[0]: line for line in said.splitlines()}
    assert "*** (set)" in lines["openai_api_key"]
    assert "default" in lines["max_attempts"]
    assert lines["gemini_base_url"].split()[1] == "-"
    assert "db.example" in lines["store"]
    assert "canary" not in said


def test_what_lists_the_servers_shows_no_secret_either(project, capsys):
    assert fractale(["list", "servers", "--json"]) == 0
    (*_, servers) = json.loads(capsys.readouterr().out).values()
    assert "canary" not in json.dumps(servers)
    assert {each["name"] for each in servers} >= {"inside", "lone", "started"}
    assert [each["name"] for each in servers if each["confined"]] == ["flux", "started"]
    fractale(["list", "servers"])
    (line,) = [each for each in capsys.readouterr().out.splitlines() if "started" in each]
    assert " confined, " in line


def test_a_password_in_the_address_of_a_model_s_server_is_not_shown(project, capsys):
    write = project / ".fractale" / "config.yaml"
    write.write_text("openai_base_url: https://anna:Walfisch7@proxy.example/v1\n")
    assert fractale(["config"]) == 0
    shown = capsys.readouterr().out
    assert "proxy.example" in shown
    assert "Walfisch7" not in shown
