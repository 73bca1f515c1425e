"""Tools whose answers hold what JSON, UTF-8 or msgpack has no form for."""

import math
from typing import Any

ANSWERS: dict[str, Any] = {
    "over 64 bits": {"x": 2**70},
    "under 64 bits": {"x": -(2**63) - 1},
    "many digits": {"x": [10**1200]},
    "JSON over 64 bits": '{"x": 1180591620717411303424}',
    "a byte of a file name": {"files": ["run-\udcff.log"]},
    "text with half a pair": "a\ud83db",
    "not a number": {"x": math.nan, "y": [math.inf, -math.inf]},
    "JSON that is not a number": '{"x": NaN, "y": 1e999}',
    "too many digits": {"x": 10**5000},
    "a key that is no text": {"\udcff": 1},
}


def give(which: str) -> Any:
    return ANSWERS[which]


def echo(value: Any) -> dict[str, Any]:
    return {"value": value}


def interrupted() -> None:
    raise KeyboardInterrupt
