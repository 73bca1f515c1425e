"""One name, one meaning: no two public classes of the tree have the same name."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

import fractale

ROOT = Path(fractale.__file__).parent


def test_a_public_class_name_means_one_thing():
    homes: dict[str, list[str]] = defaultdict(list)
    for path in sorted(ROOT.rglob("*.py")):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                homes[node.name].append(str(path.relative_to(ROOT)))
    assert {name: where for name, where in homes.items() if len(where) > 1} == {}
