"""A recorded run again, with every answer of tools, models and users from its record.

`replay` runs the graph. `recorded` and `journal` replace everything outside of the graph. `trace`
selects the events that are compared. `comparison` ends the replay at the first difference. `suite`
replays recordings as tests. `invocation` is a call of `fractale.api.areplay`.

The package is not called `replay`, which is the name of the public function `fractale.replay`.
"""
