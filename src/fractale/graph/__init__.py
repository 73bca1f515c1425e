"""From a plan to a LangGraph `StateGraph`, and what its nodes do.

A reader of one tool call goes this way:

1. `compile`: the plan as a graph: steps are nodes, events are the labels of edges.
2. `kinds`: one file per kind of step. Each gives the node of a step its call.
3. `step`: the node of a step, from top to bottom: scope, when, inputs, call, evidence, record. The
   same for a step of the plan (`AsStep`) and an item of a foreach (`AsItem`).
4. `kinds.tool`: the call of a tool step. `consent`: may it be made?
5. `call`: an `Attempt`, and `once`, the pipeline that every call goes through.
6. `fractale.mcp`: the server.
7. `outcome`: what decides whether the step succeeded.

What these use: `context`, a run as its nodes see it, and all that leaves a run, masked; `state`,
what a checkpoint holds; `scope`, the names that templates see, and where values come from;
`bindings`, what tool names mean; `limits`, what bounds a run; `interrupts`, questions to the user;
`resources`, MCP resources; `model_call`, calls of models; `agent_context`, what a sub-agent may do;
`errors_as_data`, errors in the journal; `fork_point`, where a forked run begins.
"""
