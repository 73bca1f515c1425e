"""From a plan to a LangGraph `StateGraph`, and what its nodes do.

In the order in which data flows:

- `context`: what a node may use: tools, models, the store of outputs, the run's meter.
- `state`: what a checkpoint holds: one small record a step, and references to large values.
- `scope`: the names that a template or a rule sees.
- `calls`: the call of each kind of step: a tool, a prompt, an agent.
- `attempt`: one attempt of a step; `tool_calls` and `model_calls`: how its calls are made and told.
- `job`, `job_wait`, `figures`: a job step: submitted once, waited for, its log read.
- `outcome`: what decides whether a step succeeded.
- `nodes`: one step from entry to record.
- `entry`: where a forked run begins, in the middle of its plan.
- `compile`: the whole graph: steps as nodes, outcomes as labelled edges.
"""
