"""The JSON Schema of the language: takes what fractale takes, refuses what it refuses."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from test_plan_build import RETRY
from test_plan_dump import EXAMPLE, generated

import fractale.plan
from fractale.errors import PlanError
from fractale.plan.build import parse_plan
from fractale.plan.forms import keys_of
from fractale.plan.inputs import INPUT_KEYS
from fractale.plan.model import LANGUAGE_VERSION, PLAN_KEYS, STEP_KEYS, Limits, Retry
from fractale.plan.schema import SCHEMA_FILE, SCHEMA_ID, plan_schema, schema_text
from fractale.plan.source import read_file, read_source
from plan_texts import plan_data

ROOT = Path(__file__).parents[2]
VALIDATOR = jsonschema.Draft202012Validator(plan_schema())


def is_valid(text: str) -> bool:
    return VALIDATOR.is_valid(read_source(text, "plan.yaml").plain())


def test_it_is_a_json_schema() -> None:
    VALIDATOR.check_schema(plan_schema())


def test_the_committed_copy_is_up_to_date() -> None:
    committed = Path(fractale.plan.__file__).parent / SCHEMA_FILE
    assert committed.read_text(encoding="utf-8") == schema_text()


def test_it_knows_every_key() -> None:
    schema = plan_schema()
    step = schema["$defs"]["step"]["properties"]
    assert set(schema["properties"]) == set(PLAN_KEYS)
    assert set(step) == set(STEP_KEYS)
    assert set(step["retry"]["properties"]) == set(keys_of(Retry))
    assert set(schema["properties"]["limits"]["properties"]) == set(keys_of(Limits))
    assert set(schema["$defs"]["input"]["properties"]) == set(INPUT_KEYS)


def test_every_key_is_described() -> None:
    schema = plan_schema()
    properties = {**schema["properties"], **schema["$defs"]["step"]["properties"]}
    assert not [key for key, value in properties.items() if not value.get("description")]
    assert "](" not in schema_text()  # links of the docs lead nowhere in an editor


def test_its_id_names_the_version_and_the_committed_file() -> None:
    assert plan_schema()["$id"] == SCHEMA_ID
    assert SCHEMA_ID.endswith(f"/src/fractale/plan/{SCHEMA_FILE}")
    assert f"-{LANGUAGE_VERSION}." in SCHEMA_FILE


@pytest.mark.parametrize("text", [RETRY, EXAMPLE], ids=["of 0.1.0", "of every kind"])
def test_plans_are_valid(text: str) -> None:
    assert is_valid(text)


@pytest.mark.parametrize(
    "path", sorted((ROOT / "plans").glob("*.yaml")), ids=lambda path: path.name
)
def test_shipped_plans_are_valid(path: Path) -> None:
    VALIDATOR.validate(read_file(path).plain())


@generated
@given(plan_data())
def test_generated_plans_are_valid(data: dict[str, Any]) -> None:
    VALIDATOR.validate(json.loads(json.dumps(data)))


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "name: p",
        "steps: [{name: s, tool: t}]",
        "name: p\nsteps: []",
        "name: p\nsteps: [{tool: t}]",
        f"name: p\nversion: {LANGUAGE_VERSION + 1}\nsteps: [{{name: s, tool: t}}]",
        "name: p\nversion: '1'\nsteps: [{name: s, tool: t}]",
        "name: p\nsteps: [{name: 1st, tool: t}]",
        "name: p\nsteps: [{name: s, tool: t, typo: 1}]",
        "name: p\nsteps: [{name: s, type: tool}]",
        "name: p\nsteps: [{name: s, tool: a b}]",
        "name: p\nsteps: [{name: s, tool: t, max_parallel: 1}]",
        "name: p\nsteps: [{name: s, tool: t, timeout: soon}]",
        "name: p\nsteps: [{name: s, tool: t, timeout: ''}]",
        "name: p\nsteps: [{name: s, tool: t, approve: maybe}]",
        "name: p\nsteps: [{name: s, tool: t, model: gpt}]",
        "name: p\nsteps: [{name: s, tool: t, rules: {success: {}}}]",
        "name: p\nsteps: [{name: s, tool: t, transitions: {success: 3}}]",
        "name: p\nsteps: [{name: s, parallel: [{name: a, parallel: [{name: b, tool: t}]}]}]",
        "name: p\nsteps: [{name: s, tool: t}]\nservers: ['http://x']",
        "name: p\nsteps: [{name: s, tool: t}]\nagents: [x]",
        "name: p\nsteps: [{name: s, tool: t}]\nlimits: {stps: 1}",
        "name: p\nsteps: [{name: s, tool: t}]\ninputs: {n: {type: integer, defualt: 1}}",
    ],
)
def test_what_fractale_refuses_it_refuses(text: str) -> None:
    assert not is_valid(text)
    with pytest.raises(PlanError):
        parse_plan(text)
