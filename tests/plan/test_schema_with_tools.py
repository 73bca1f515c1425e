"""The schema with tools: an editor completes tools and inputs, and marks what cannot be called."""

from __future__ import annotations

import copy
from typing import Any

import jsonschema
import pytest
import yaml

from fractale.plan.schema import SCHEMA_ID, plan_schema, schema_path

NODE = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "children": {"$ref": "#/$defs/nodes"}},
    "required": ["name"],
}
TOOLS: dict[str, dict[str, Any]] = {
    "submit": {
        "type": "object",
        "properties": {
            "script": {"type": "string", "pattern": "^(a+)+$", "description": "The script."},
            "nodes": {"type": "integer"},
            "queue": {"enum": ["debug", "batch"]},
            "sizes": {"type": "array", "items": {"type": "integer"}},
        },
        "required": ["script"],
    },
    "site.tree/x": {
        "type": "object",
        "properties": {"root": {"$ref": "#/$defs/a~b"}, "far": {"$ref": "https://evil.example/x"}},
        "$defs": {"a~b": NODE, "nodes": {"type": "array", "items": NODE}},
    },
    "open": {"type": "object"},
    "broken": {"type": "object", "properties": {"x": {"type": "no type"}}, "required": ["x"]},
}
SCHEMA = plan_schema(TOOLS)


def is_valid(step: str, schema: dict[str, Any] = SCHEMA) -> bool:
    plan = {"name": "p", "steps": [{"name": "s", **yaml.safe_load(step)}]}
    validator = jsonschema.Draft202012Validator(schema)
    nested = copy.deepcopy(plan)
    nested["steps"] = [{"name": "all", "parallel": nested["steps"]}]
    assert validator.is_valid(plan) == validator.is_valid(nested)
    return validator.is_valid(plan)


GOOD = [
    "{tool: submit, inputs: {script: x}}",
    "{tool: submit, inputs: {script: x, nodes: 2, queue: batch, sizes: [1, 2]}}",
    '{tool: submit, inputs: {script: "{{ inputs.s }}", nodes: "{{ inputs.n }}"}}',
    '{tool: submit, inputs: {script: {resource: "site:file://x"}, queue: "{{ inputs.q }}"}}',
    '{tool: submit, inputs: {script: x, sizes: ["{{ inputs.n }}", 3]}}',
    '{tool: submit, inputs: {script: x, sizes: "{{ inputs.sizes }}"}}',
    '{tool: site.tree/x, inputs: {root: {name: a, children: [{name: "{{ item }}"}]}, far: 1}}',
    "{tool: open, inputs: {anything: 1}}",
    "{tool: open}",
    "{tool: broken, inputs: {y: 1}}",
    "{type: agent, instruction: Hi, inputs: {other: 1}}",
]
BAD = [
    "{tool: submt, inputs: {script: x}}",
    "{tool: submit}",
    "{tool: submit, inputs: {nodes: 1}}",
    "{tool: submit, inputs: {script: x, node: 1}}",
    "{tool: submit, inputs: {script: x, nodes: two}}",
    "{tool: submit, inputs: {script: x, queue: fast}}",
    "{tool: submit, inputs: {script: x, sizes: [one]}}",
    "{tool: site.tree/x, inputs: {root: {children: []}}}",
    "{tool: site.tree/x, inputs: {root: {name: a, children: [{}]}}}",
]


def test_it_is_a_json_schema_without_the_public_id():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert "$id" not in SCHEMA


@pytest.mark.parametrize("step", GOOD)
def test_a_call_that_fits_its_tool_is_valid(step):
    assert is_valid(step)


@pytest.mark.parametrize("step", BAD)
def test_a_call_that_does_not_fit_its_tool_is_invalid(step):
    assert not is_valid(step)


def test_names_and_descriptions_are_there_for_completion():
    step = SCHEMA["$defs"]["step"]
    assert step["properties"]["tool"]["enum"] == sorted(TOOLS)
    inputs = SCHEMA["$defs"]["inputs of submit"]["properties"]
    assert [*inputs] == ["script", "nodes", "queue", "sizes"]
    assert inputs["script"]["description"] == "The script."


def test_nothing_is_fetched_or_matched_for_a_strangers_schema():
    text = str(SCHEMA)
    assert "evil.example" not in text
    assert "(a+)+" not in text


def test_steps_may_call_others_if_a_server_is_missing():
    schema = plan_schema(TOOLS, complete=False)
    assert is_valid("{tool: unknown}", schema)
    assert not is_valid("{tool: submit, inputs: {node: 1}}", schema)


def test_the_package_has_the_schema_of_the_id():
    schema = yaml.safe_load(schema_path().read_text(encoding="utf-8"))
    assert schema["$id"] == SCHEMA_ID
    assert schema == plan_schema()
