"""The runs of a state directory in a terminal, as they go: ``fractale top``.

`overview` reads the runs, `table` and `run_text` have the lines that show them, `asking` reads what
a key answers to a question. None of these needs Textual. `screens` and `app` are the interface.
Nothing that a tool, a model or a plan wrote becomes markup: widgets draw plain segments of text.
"""
