"""The built-in sub-agents, and the parts that all sub-agents share.

- `subagent`: an agent, and the context through which it works.
- `catalog`, `own`: the agents of a run by name: fractale's, the user's, those of packages.
- `loop`, `loop_tools`: a model with tools, as a graph of two nodes.
- `graphs`: LangGraph graphs as sub-agents. `tool_runs`: tool calls in traces.
- `conversation`: whether a conversation shows that the work was not done.
- `signatures`: a call on one line, and arguments checked against a schema.

The agents:

- `ask`: the generalist, alone and as ``fractale prompt`` asks it.
- `planner`, with `draft_catalog`: drafts the steps of a plan.
- `optimize`, with `search`, `space` and `metric`: tunes a job.
- `result_parse`: finds a metric in a log.
- `transform_jobspec`, with `script_validators`: translates a batch script.
"""
