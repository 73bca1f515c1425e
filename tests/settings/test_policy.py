"""What may be called: allow, ask or deny, by tool, by arguments and by who chose the call."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import forked
from fractale.errors import SettingsError
from fractale.policy import Grant, PlannedCall, Policy, Ruling
from fractale.settings import PolicySettings, ToolRule, load_settings
from fractale.testing import FakeToolServer, Reply, ScriptedModel
from fractale.toolbox import ToolInfo

READS = ToolInfo(name="read", server="hpc", annotations={"readOnlyHint": True})
CHANGES = ToolInfo(name="hpc.erase", server="hpc", annotations={"readOnlyHint": False})
UNKNOWN = ToolInfo(name="run", server="hpc")


def rule(tool: ToolInfo, chosen_by: Any = "model", *, settings: Any = None, **more: Any) -> Ruling:
    grants = more.pop("grants", frozenset())
    policy = Policy(settings=settings or PolicySettings(), yes=more.pop("yes", False))
    arguments = more.pop("arguments", {})
    call = PlannedCall(tool=tool, arguments=arguments, chosen_by=chosen_by, **more)
    return policy.rule(call, grants)


def verdict(*given: Any, **more: Any) -> str:
    return rule(*given, **more).verdict


class TestWithoutSettings:
    @pytest.mark.parametrize("tool", [READS, CHANGES, UNKNOWN])
    def test_a_call_that_stands_in_a_plan_is_agreed_to(self, tool):
        assert verdict(tool, "plan") == "allow"

    @pytest.mark.parametrize(
        ("tool", "decided"), [(READS, "allow"), (CHANGES, "ask"), (UNKNOWN, "ask")]
    )
    def test_a_model_may_read_and_asks_before_it_changes_something(self, tool, decided):
        assert verdict(tool) == decided

    def test_it_says_why(self):
        assert "may change something" in rule(UNKNOWN).why
        assert "only reads" in rule(READS).why
        assert "in the plan" in rule(UNKNOWN, "plan").why


class TestApprove:
    @pytest.mark.parametrize("chosen_by", ["plan", "model"])
    def test_ask_is_about_calls_that_may_change_something(self, chosen_by):
        assert verdict(UNKNOWN, chosen_by, approve="ask") == "ask"
        assert verdict(READS, chosen_by, approve="ask") == "allow"

    @pytest.mark.parametrize("chosen_by", ["plan", "model"])
    @pytest.mark.parametrize("tool", [READS, CHANGES, UNKNOWN])
    def test_always_is_about_all_calls(self, chosen_by, tool):
        found = rule(tool, chosen_by, approve="always")
        assert found == Ruling("ask", "the step says `approve: always`")

    def test_never_lifts_nothing_that_a_models_call_needs(self):
        assert verdict(UNKNOWN, approve="never") == "ask"
        assert verdict(UNKNOWN, "plan", approve="never") == "allow"

    @pytest.mark.parametrize("approve", ["ask", "always"])
    def test_a_step_can_ask_for_more_than_the_settings(self, approve):
        assert verdict(UNKNOWN, settings=PolicySettings(allow=("*",)), approve=approve) == "ask"


class TestSettings:
    def test_the_strictest_list_that_matches_decides(self):
        everything = PolicySettings(allow=("*",), ask=("hpc.*",), deny=("erase",))
        assert verdict(CHANGES, settings=everything) == "deny"
        assert verdict(UNKNOWN, settings=everything) == "ask"
        assert verdict(UNKNOWN, settings=PolicySettings(allow=("r*",))) == "allow"

    def test_deny_counts_for_a_plan_too_and_for_yes(self):
        denied = PolicySettings(deny=("hpc.erase",))
        assert verdict(CHANGES, "plan", settings=denied, yes=True) == "deny"
        assert "hpc.erase" in rule(CHANGES, settings=denied).why

    def test_ask_makes_reading_asked_for(self):
        assert verdict(READS, settings=PolicySettings(ask=("read",))) == "ask"

    @pytest.mark.parametrize("glob", ["erase", "hpc.erase", "hpc.*", "*erase", "e*"])
    def test_globs_match_bare_and_qualified_names(self, glob):
        assert verdict(CHANGES, settings=PolicySettings(deny=(glob,))) == "deny"

    @pytest.mark.parametrize("glob", ["Erase", "other.*", "hpc", "rase"])
    def test_globs_match_whole_names_and_letters_as_they_are(self, glob):
        assert verdict(CHANGES, settings=PolicySettings(deny=(glob,))) == "ask"


class TestArguments:
    ETC = PolicySettings(deny=(ToolRule("erase", {"path": "/etc/*"}),))

    @pytest.mark.parametrize(
        ("arguments", "decided"),
        [
            ({"path": "/etc/passwd"}, "deny"),
            ({"path": "/etc/a\nb"}, "deny"),
            ({"path": "/tmp/etc/x"}, "ask"),
            ({"other": "/etc/passwd"}, "ask"),
            ({}, "ask"),
        ],
    )
    def test_a_rule_about_an_argument_is_about_its_text(self, arguments, decided):
        assert verdict(CHANGES, settings=self.ETC, arguments=arguments) == decided

    def test_what_is_not_text_is_matched_as_json(self):
        rules = PolicySettings(
            deny=(ToolRule("run", {"command": '*"rm"*'}),), allow=(ToolRule("run", {"nodes": "1"}),)
        )
        denied = {"command": ["rm", "-r", "/"], "nodes": 1}
        assert verdict(UNKNOWN, settings=rules, arguments=denied) == "deny"
        assert verdict(UNKNOWN, settings=rules, arguments={"nodes": 1}) == "allow"
        assert verdict(UNKNOWN, settings=rules, arguments={"nodes": 10}) == "ask"

    def test_all_that_a_rule_names_must_match(self):
        rules = PolicySettings(allow=(ToolRule("run", {"queue": "debug", "nodes": "1"}),))
        both = {"queue": "debug", "nodes": 1}
        assert verdict(UNKNOWN, settings=rules, arguments=both) == "allow"
        assert verdict(UNKNOWN, settings=rules, arguments={**both, "nodes": 2}) == "ask"

    def test_hostile_text_does_not_hold_a_glob_up(self):
        rules = PolicySettings(deny=(ToolRule("run", {"text": "*a" * 30 + "b"}),))
        assert verdict(UNKNOWN, settings=rules, arguments={"text": "a" * 50_000}) == "ask"


class TestAgreedBeforehand:
    @pytest.mark.parametrize("approve", [None, "never", "ask", "always"])
    def test_yes_agrees_to_whatever_would_be_asked(self, approve):
        settings = PolicySettings(ask=("*",))
        assert verdict(UNKNOWN, settings=settings, approve=approve, yes=True) == "allow"

    def test_a_tool_that_was_granted_is_not_asked_about_again(self):
        granted = [Grant(tool="hpc.erase", definition=CHANGES.definition)]
        assert verdict(CHANGES, grants=granted) == "allow"
        assert verdict(CHANGES, approve="always", grants=granted) == "allow"

    @pytest.mark.parametrize("tool", ["erase", "other.erase", "hpc.run"])
    def test_a_grant_is_for_one_tool_of_one_server(self, tool):
        assert verdict(CHANGES, grants=[Grant(tool=tool, definition=CHANGES.definition)]) == "ask"

    def test_a_grant_does_not_lift_what_is_denied(self):
        denied = PolicySettings(deny=("erase",))
        granted = [Grant(tool="hpc.erase", definition=CHANGES.definition)]
        assert verdict(CHANGES, settings=denied, grants=granted) == "deny"


GLOBS = st.lists(st.sampled_from(["*", "hpc.*", "run", "r*", "nothing"]), max_size=2).map(tuple)
ORDER = ["allow", "ask", "deny"]


@given(st.sampled_from([READS, CHANGES, UNKNOWN]), GLOBS, GLOBS, GLOBS, st.booleans())
def test_more_rules_of_ask_and_deny_never_allow_more(tool, allow, ask, deny, yes):
    free = PolicySettings(allow=allow)
    for chosen_by in ("plan", "model"):
        for approve in (None, "never", "ask", "always"):
            options: dict[str, Any] = {"approve": approve, "yes": yes}
            before = verdict(tool, chosen_by, settings=free, **options)
            stricter = replace(free, ask=ask, deny=deny)
            after = verdict(tool, chosen_by, settings=stricter, **options)
            assert ORDER.index(after) >= ORDER.index(before)
            assert not (yes and after == "ask")


# -- settings files -------------------------------------------------------------------------------


def write(path: Path, text: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return str(path)


def test_the_lists_of_both_files_are_added_and_each_rule_knows_its_file(tmp_path):
    user = write(
        tmp_path / "home/.config/fractale/config.yaml",
        'policy: {deny: [{tool: "erase", arguments: {path: "/etc/*"}}], allow: [read]}\n',
    )
    project = write(tmp_path / "work/.fractale/config.yaml", 'policy: {allow: ["hpc.*"]}\n')
    found = load_settings(
        {"HOME": str(tmp_path / "home"), "FRACTALE_TRUST_PROJECT": "1"}, tmp_path / "work"
    ).policy
    assert found.allow == (ToolRule("read"), ToolRule("hpc.*"))
    assert [r.origin for r in found.allow] == [user, project]
    assert found.deny == (ToolRule("erase", {"path": "/etc/*"}),)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("policy: {allow: read}", "policy.allow` must be a list"),
        ("policy: {deny: [1]}", "policy.deny[0]"),
        ("policy: {deny: [{tool: x, argument: {}}]}", "policy.deny[0]"),
        ("policy: {deny: [a, {arguments: {a: b}}]}", "policy.deny[1]"),
        ("policy: {ask: [{tool: x, arguments: {n: 1}}]}", "policy.ask[0]"),
        ("policy: [allow]", "`allow`, `ask`, `deny`"),
    ],
)
def test_what_is_wrong_in_a_file_is_named_with_its_place(tmp_path, text, says):
    path = write(tmp_path / ".fractale/config.yaml", text)
    with pytest.raises(SettingsError) as error:
        load_settings({"HOME": str(tmp_path), "FRACTALE_TRUST_PROJECT": "1"}, tmp_path)
    assert says in str(error.value)
    assert path in str(error.value)


# -- in a run -------------------------------------------------------------------------------------

AGENT = "name: p\nsteps: [{name: s, type: agent, instruction: Clean up}]\n"


@pytest.fixture
def tools() -> FakeToolServer:
    server = FakeToolServer()

    @server.tool
    def erase(path: str) -> dict:
        """Erase a file."""
        return {"erased": path}

    return server


async def test_a_rule_about_an_argument_stops_one_call_and_not_the_other(run_plan, tools, settings):
    rules = PolicySettings(deny=(ToolRule("erase", {"path": "/etc/*"}),), allow=("erase",))
    calls = [Reply(tool_calls=[("erase", {"path": path})]) for path in ("/etc/passwd", "x")]
    model = ScriptedModel([*calls, "done"])
    ran = await run_plan(AGENT, tools=tools, model=model, settings=replace(settings, policy=rules))
    assert ran.status == "success"
    assert [call.arguments for call in tools.calls] == [{"path": "x"}]


# -- fractale list --policy -----------------------------------------------------------------------

TOOLS = '''
def read(path: str) -> str:
    """Read."""
    return path

def erase(path: str) -> str:
    """Erase."""
    return path
'''
REGISTRY = """
tools:
  - {path: my_tools.read, annotations: {readOnlyHint: true}}
  - {path: my_tools.erase}
"""
CONFIG = """
policy:
  ask: ["*"]
  deny: [{tool: "er*", arguments: {path: "/etc/*"}}, no_such_tool]
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    write(tmp_path / "my_tools.py", TOOLS)
    write(tmp_path / "r.yaml", REGISTRY)
    write(tmp_path / ".fractale/config.yaml", CONFIG)
    return tmp_path


def listed(project: Path, *words: str) -> str:
    kept = {k: v for k, v in os.environ.items() if k == "PATH" or k.startswith("COVERAGE_")}
    done = forked.run(
        ["list", "--policy", "-r", "r.yaml", *words],
        cwd=project,
        env={**kept, "HOME": str(project)},
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_list_says_what_is_decided_about_each_tool_why_and_by_which_file(project):
    erase, read = json.loads(listed(project, "--json"))["policy"]
    config = str(project / ".fractale/config.yaml")
    assert (erase["name"], read["name"]) == ("erase", "read")
    assert erase["plan"]["verdict"] == "allow"
    assert erase["model"]["verdict"] == "ask"
    assert erase["rules"] == [
        {"list": "deny", "tool": "er*", "arguments": {"path": "/etc/*"}, "from": config},
        {"list": "ask", "tool": "*", "arguments": {}, "from": config},
    ]
    assert "settings ask before it" in read["model"]["why"]


def test_the_list_is_readable_as_text(project):
    text = listed(project)
    lines = [line.split() for line in text.splitlines()]
    assert ["erase", "allow", "ask"] in [words[:3] for words in lines]
    assert f"- deny er* where path is /etc/* ({project / '.fractale/config.yaml'})" in text
    assert "no_such_tool" not in text
