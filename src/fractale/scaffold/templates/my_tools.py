"""Tools of this project: Python functions that `tools.yaml` lists.

The signature of a function is the schema of its tool, and its docstring describes the tool.
"""

from statistics import mean


def summarize_times(log: str) -> dict[str, float]:
    """Summarize the times in a log.

    Args:
        log: Text with one line such as `time 1.25` per measurement, in seconds.
    """
    lines = [line.split() for line in log.splitlines()]
    times = [float(words[1]) for words in lines if len(words) == 2 and words[0] == "time"]
    if not times:
        raise ValueError("the log has no line such as `time 1.25`")
    return {"count": len(times), "mean": mean(times), "longest": max(times)}
