"""The execution engine: compiles a plan to a LangGraph `StateGraph` and runs its steps.

A tool call passes 20 modules from its step to the wire and back. Read them in this order:

1. `step`: the node of a step, from its entry to its record. `StepNode.__call__` lists the stages:
   scope, when, inputs, call, evidence, record. A step of the plan (`AsStep`) and an item of a
   foreach (`AsItem`) share it.
2. `kinds.tool`: the call stage of a tool step. It finds the tool, asks for approval, and makes the
   call.
3. `bindings`: the tool that a name means in this run, and its approved definition.
4. `fractale.policy`: whether the call may be made, by rules and by the sources of its values.
5. `call`: one attempt of a step, and `once`, the pipeline of every call.
6. `context`: the run that the attempt is part of, its limits, and the way out for data.
7. `fractale.mcp`: `toolbox` finds the server, `session` keeps the session with it, and `stdio`
   carries the messages. `fractale.toolbox` has the types that cross this border.
8. `fractale.evidence`: the outputs in the answer, and whether they show a failure.
   `fractale.schemas` checks them against the tool's output schema.
9. `outcome`: whether the step succeeded.

Each piece of data that leaves the run takes the same way: `fractale.masking` masks it,
`fractale.plain` makes JSON of it, and `fractale.private` writes it to a file of the user.

- `fractale.events` has the events; `fractale.runs.reporter` receives them.
- `fractale.store.journal` has the calls and their results.
- `fractale.store.outputs` has the large values.

A template in the step's inputs also enters `fractale.plan.expressions`.

These modules are beside that way:

- `compile` turns the plan into a graph: steps are nodes, events are the labels of edges.
- `kinds` has one module per kind of step. Each sets the call of a step's node.
- `plan_graph` is the graph as applications use it: the entrance of each run does what the plan says
  about its inputs, secrets and limits. `sync_saver` serves applications that are not async.
- `tracing`: callback handlers, such as tracers, see no secrets.
- `state`: the contents of a checkpoint, and the point at which a forked run begins.
- `interrupts`: questions to the user.
- `resources`: MCP resources.
- `model_call`: calls of models.
- `agent_context`: the abilities of a sub-agent.
- `job_budget`: the budget of batch jobs.
- `errors_as_data`: errors in the journal.
"""
