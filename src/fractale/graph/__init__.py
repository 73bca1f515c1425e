"""The execution engine: compiles a plan to a LangGraph `StateGraph` and runs its steps.

To follow one tool call through the package, read the modules in this order:

1. `compile` turns the plan into a graph: steps are nodes, events are the labels of edges.
2. `kinds` has one file per kind of step. Each sets the call of a step's node.
3. `step` is the node of a step: scope, when, inputs, call, evidence, record. A step of the plan
   (`AsStep`) and an item of a foreach (`AsItem`) share it.
4. `kinds.tool` is the call of a tool step. `consent` decides if it may be made.
5. `call` has `Attempt`, and `once`, the pipeline of every call.
6. `fractale.mcp` sends the call to the server.
7. `outcome` decides whether the step succeeded.

Applications use a plan's graph through `plan_graph`: the entrance of each run, which does what the
plan says about its inputs, secrets and limits. `sync_saver` serves applications that are not async.

These modules use the following ones:

- `context`: a run as its nodes see it. Everything that leaves a run through it is masked.
- `state`: the contents of a checkpoint.
- `scope`: the names that templates see, and the sources of their values.
- `bindings`: the tool that each name means.
- `limits`: the limits of a run.
- `interrupts`: questions to the user.
- `resources`: MCP resources.
- `model_call`: calls of models.
- `agent_context`: the abilities of a sub-agent.
- `errors_as_data`: errors in the journal.
- `fork_point`: the step at which a forked run begins.
"""
