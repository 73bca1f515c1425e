"""A recorded run again, with every answer of tools, models and users from its record.

`replay` runs the graph; `recorded` and `journal` stand in for all that is outside of it; `trace`
says what of the events counts; `comparison` ends the replay at the first difference; `suite`
replays recordings as tests.
"""
