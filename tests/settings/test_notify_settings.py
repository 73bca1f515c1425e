"""`notify` in the settings: its form, its secrets, and a project's, which needs trust."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fractale.errors import SettingsError
from fractale.settings import load_settings
from fractale.settings.notify import parse_notify
from fractale.site.doctor import Wanted, examine

SECRET = "canary-5d41402abc4b2a76"
HOOK = "https://hooks.site.example/T123/abc"


def parsed(entry: Any, **environment: str):
    (found,) = parse_notify([entry], environment, "config.yaml")
    return found


def test_an_entry_says_when_and_what():
    command = parsed({"on": "failure", "command": ["mail", "-s", 1]})
    assert command.on == ("failure",)
    assert command.command == ("mail", "-s", "1")
    hook = parsed({"webhook": "${HOOK}", "token_env": "KEY", "timeout": "3s"}, HOOK=HOOK, KEY="k1")
    assert hook.on == ("end", "question")
    assert hook.webhook == HOOK
    assert hook.headers == {"Authorization": "Bearer k1"}
    assert hook.timeout == 3
    assert hook.address == "https://hooks.site.example/…"
    assert HOOK in hook.secrets
    unset = parsed({"webhook": "https://${HOST}/x${KEY}"}, KEY="k1")
    assert (unset.unset, unset.address) == (("HOST",), "https://${HOST}/…")
    assert parsed({"webhook": "${HOOK}"}).address == "${HOOK}"
    named = parsed({"webhook": "https://a.example/${KEY}"}, KEY="${HOST}/x")  # a value, not a name
    assert named.address == "https://a.example/…"
    assert parsed({"webhook": "http://[::1]:80/x"}).address == "http://[::1]:80/…"


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ("mail", "must be a mapping with `command` or `webhook`"),
        ({"on": "end"}, "needs either `command` or `webhook`"),
        ({"command": ["a"], "webhook": HOOK}, "needs either `command` or `webhook`"),
        ({"command": "mail me"}, "must be a list of words; it runs without a shell"),
        ({"command": []}, "must be a list of words"),
        ({"webhok": HOOK}, "unknown key `webhok`"),
        ({"on": ["fail"], "webhook": HOOK}, "unknown occasion `fail`"),
        ({"on": [], "webhook": HOOK}, "`on` must be a list"),
        ({"webhook": "http://hooks.site.example/x"}, "must begin with https://"),
        ({"webhook": "ftp://hooks.site.example/x"}, "must be an address such as https://"),
        ({"webhook": "https://[bad"}, "must be an address such as https://"),
        ({"webhook": HOOK, "env_from": ["A"]}, "a webhook has no `env_from`"),
        ({"command": ["a"], "headers": {}}, "a command has no `headers`"),
        ({"command": ["a"], "env_from": ["A B"]}, "`env_from` must be a list of names"),
        ({"command": ["a"], "timeout": "10m"}, "must be a time up to 60s"),
        ({"webhook": HOOK, "headers": "x"}, "`headers` must be a mapping"),
    ],
)
def test_a_wrong_entry_says_what_is_wrong(entry, says):
    with pytest.raises(SettingsError) as caught:
        parsed(entry)
    assert says in caught.value.message
    assert caught.value.message.startswith("config.yaml: `notify[0]`")


def test_notify_must_be_a_list():
    with pytest.raises(SettingsError, match="must be a list of entries"):
        parse_notify({"command": ["a"]}, {}, "config.yaml")


def written(path: Path, *entries: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"notify": entries}))  # JSON is YAML
    path.chmod(0o600)


def test_the_entries_of_both_files_count_and_a_projects_need_trust(tmp_path):
    home, project = tmp_path / "home", tmp_path / "home" / "project"
    written(home / ".config" / "fractale" / "config.yaml", {"command": ["mine"]})
    hostile = {"webhook": HOOK, "headers": {"X": "${SITE_TOKEN}"}, "on": ["question"]}
    written(project / ".fractale" / "config.yaml", hostile, {"command": ["theirs", SECRET]})
    environment = {"HOME": str(home), "SITE_TOKEN": SECRET}
    place: dict[str, Any] = {"environment": environment, "directory": project}
    trusted = load_settings(**place, trust_project=True)
    assert [each.address for each in trusted.notify][:2] == ["mine", "https://hooks.site.example/…"]
    assert SECRET in trusted.secrets
    narrow = load_settings(**place, untrusted="narrow")
    assert [each.address for each in narrow.notify] == ["mine"]
    webhook, command = narrow.waiting
    assert str(webhook).startswith("notify: https://hooks.site.example/…")
    assert "sends the summary of runs to this address" in webhook.effect
    assert "sends it your variables SITE_TOKEN" in webhook.effect
    assert "starts this program" in command.effect


def test_the_doctor_lists_them_and_says_what_is_missing(settings):
    entries = [
        {"command": ["sh"]},
        {"command": ["no-such-program"]},
        {"webhook": "https://${NO_HOST}/x"},
    ]
    given = replace(settings, notify=parse_notify(entries, {}, "config.yaml"))
    report = asyncio.run(examine(given, Wanted()))
    found = [check for check in report.checks if check.what == "notify"]
    assert [check.verdict for check in found] == ["ok", "warning", "warning"]
    assert found[0].found == "end, question: runs sh"
    assert "install `no-such-program`" in found[1].fix
    assert "set the environment variable NO_HOST" in found[2].fix
