"""The conditions of a run: packages, environment, code of its tools, agents, models, machine.

``conditions.json`` in the run's directory has them as they were when the run began, so that
`fractale why` can compare another run with it. Runs with the same conditions share one file.
`fractale.runs.conditions` collects them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, cast

from fractale.errors import NotRecorded
from fractale.record.snapshot import keep_shared
from fractale.store.run_record import RunRecord


def keep_conditions(
    record: RunRecord, conditions: Mapping[str, Any], mask: Callable[[Any], Any]
) -> None:
    """Write the conditions into the run's directory.

    Args:
        mask: Removes secrets from a JSON value.

    Raises:
        StoreError: They can't be written.
    """
    keep_shared(record, record.conditions, mask(dict(conditions)), "what the run ran with")


def read_conditions(record: RunRecord) -> dict[str, Any]:
    """The conditions of a run.

    Raises:
        NotRecorded: They were not recorded, or are damaged.
    """
    path = record.conditions
    try:
        found: Any = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise NotRecorded(
            "no-conditions",
            f"the record of run {record.run_id} does not have what it ran with",
            hint="an older version of fractale made it; run the plan again",
        ) from None
    except (OSError, ValueError) as error:
        raise NotRecorded("no-conditions", f"{path} cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise NotRecorded("no-conditions", f"{path} is damaged: it is not a mapping")
    return cast("dict[str, Any]", found)
