"""LangGraph's and LangChain's agents as sub-agents: their calls are seen, their questions asked."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import (
    AgentMiddleware,
    HumanInTheLoopMiddleware,
    ModelRetryMiddleware,
    TodoListMiddleware,
    ToolRetryMiddleware,
)
from langchain.agents.structured_output import ToolStrategy
from langchain_core.messages import AIMessage
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode
from langgraph.runtime import Runtime
from langgraph.store.memory import InMemoryStore
from langgraph.types import Command, interrupt
from typing_extensions import TypedDict

from fractale.api import load
from fractale.errors import AnswerError, PlanError
from fractale.events import Event
from fractale.plan.model import Limits
from fractale.questions import Answers
from fractale.runs import Extensions, RunOptions, Workspace
from fractale.settings import PolicySettings, Settings, ToolRule
from fractale.testing import Reply, ScriptedModel

PLAN = """
name: p
steps: [{name: s, agent: helper, instruction: Do it.}]
outputs: {all: "{{ steps.s.outputs }}"}
"""


class Around(TypedDict, total=False):
    all: Any


@dataclass
class Ended:
    result: Any
    events: list[Event] = field(default_factory=list)

    @property
    def outputs(self) -> Any:
        return self.result.outputs.get("all")

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [event.data for event in self.events if event.kind == kind]


@pytest.fixture
def ask(settings: Settings) -> Callable[..., Any]:
    """Run a plan with agents that are given as objects."""

    async def run(
        agents: Any,
        plan: str = PLAN,
        inputs: dict[str, Any] | None = None,
        *,
        policy: PolicySettings | None = None,
        answers: dict[str, Any] | None = None,
        yes: bool = False,
        resume: str | None = None,
        **options: Any,
    ) -> Ended:
        events: list[Event] = []
        given = agents if isinstance(agents, (dict, list)) else {"helper": agents}
        chosen = replace(settings, policy=policy) if policy else settings
        loaded = load(textwrap.dedent(plan))
        async with Workspace.open(chosen, loaded, Extensions(given=given), yes=yes) as workspace:
            started = RunOptions(
                listeners=[events.append], answers=Answers(answers or {}), yes=yes, **options
            )
            if resume:
                return Ended(await workspace.runs.resume(resume, started), events)
            return Ended(await workspace.runs.start(loaded, inputs, started), events)

    return run


def calls(*names: str, **arguments: Any) -> Reply:
    return Reply(tool_calls=[(name, arguments) for name in names])


class Shop:
    """Tools, and the calls that reached them."""

    def __init__(self) -> None:
        self.made: list[Any] = []

        @tool
        def buy(what: str) -> str:
            """Buy something."""
            self.made.append(("buy", what))
            return f"bought {what}"

        @tool
        async def look(what: str) -> str:
            """Look something up."""
            self.made.append(("look", what))
            return f"{what} costs 3"

        look.metadata = {"readOnlyHint": True}
        self.buy, self.look = buy, look


async def test_an_agent_of_langchain_answers_in_a_step(ask):
    model = ScriptedModel(["Done as asked."])
    ended = await ask(create_agent(model, tools=[]))
    assert ended.result.status == "success", ended.result.error
    assert ended.outputs == {"content": "Done as asked."}
    assert model.requests[0][-1].text == "Do it."


async def test_its_calls_are_events_and_count(ask):
    shop = Shop()
    model = ScriptedModel([calls("look", what="tea"), "It costs 3."])
    ended = await ask(create_agent(model, tools=[shop.look]))
    assert ended.outputs == {"content": "It costs 3."}
    assert [e["agent"] for e in ended.of("model_started")] == ["helper", "helper"]
    (started,), (finished,) = ended.of("tool_started"), ended.of("tool_finished")
    assert (started["tool"], started["arguments"]) == ("look", {"what": "tea"})
    assert (finished["text"], finished["is_error"]) == ("tea costs 3", False)
    counted = [e["input_tokens"] + e["output_tokens"] for e in ended.of("model_finished")]
    assert all(counted)
    assert ended.result.usage["total_tokens"] == sum(counted)
    assert ended.of("step_finished")[0]["tokens"] == sum(counted)


# Limits


class Eager(AgentMiddleware):
    """A middleware of a person's own: it sees each model call."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0

    async def awrap_model_call(self, request: Any, handler: Any) -> Any:
        self.seen += 1
        return await handler(request)


ENDLESS = [calls("look", what="tea") for _ in range(30)]


@pytest.mark.parametrize(
    "middleware",
    [[], [ModelRetryMiddleware(max_retries=2, initial_delay=0.0, on_failure="continue")]],
    ids=["plain", "errors are caught"],
)
async def test_a_limit_of_tokens_stops_it(ask, middleware):
    shop = Shop()
    model = ScriptedModel([replace(reply, input_tokens=40, output_tokens=10) for reply in ENDLESS])
    agent = create_agent(model, tools=[shop.look], middleware=middleware)
    ended = await ask(agent, limits=Limits(tokens=120))
    assert ended.result.status == "limit", ended.result
    assert "tokens" in ended.result.error
    assert len(model.requests) == 3


async def test_an_endless_one_fails(ask):
    shop = Shop()
    agent = create_agent(ScriptedModel(ENDLESS), tools=[shop.look]).with_config(recursion_limit=8)
    ended = await ask(agent)
    assert ended.result.status == "failed"
    assert "did not come to an end within 8 steps" in ended.result.error


async def test_a_cost_without_a_price_is_an_error(ask):
    ended = await ask(create_agent(ScriptedModel(["x"]), tools=[]), limits=Limits(cost=1.0))
    assert ended.result.status == "failed"
    assert "the price of" in ended.result.error


# Policy


async def test_a_call_that_changes_something_needs_approval(ask):
    shop, saver = Shop(), InMemorySaver()
    model = ScriptedModel([calls("buy", what="tea"), "Bought."])
    agent = create_agent(model, tools=[shop.buy])
    ended = await ask(agent, checkpointer=saver, run_id="r")
    assert ended.result.status == "waiting"
    (question,) = ended.result.waiting
    assert (question["kind"], question["step"]) == ("approval", "s")
    assert (question["server"], question["tool"]) == ("helper", "buy")
    assert shop.made == []


@pytest.mark.parametrize(
    ("policy", "options"),
    [
        (PolicySettings(allow=("helper.buy",)), {}),
        (None, {"yes": True}),
        (None, {"answers": {"s": "yes"}}),
    ],
)
async def test_an_approved_call_is_made(ask, policy, options):
    shop = Shop()
    model = ScriptedModel([calls("buy", what="tea"), "Bought."])
    ended = await ask(create_agent(model, tools=[shop.buy]), policy=policy, **options)
    assert ended.outputs == {"content": "Bought."}
    assert shop.made == [("buy", "tea")]
    assert len(model.requests) == 2


@pytest.mark.parametrize(
    ("policy", "options", "why"),
    [
        (PolicySettings(deny=("helper.buy",)), {"yes": True}, "deny it"),
        (None, {"answers": {"s": "no"}}, "refused"),
    ],
)
@pytest.mark.parametrize(
    "middleware",
    [[], [ToolRetryMiddleware(max_retries=1, initial_delay=0.0)], [Eager()]],
    ids=["plain", "retries", "own"],
)
async def test_a_refused_call_is_not_made_and_the_model_reads_why(
    ask, policy, options, why, middleware
):
    shop = Shop()
    model = ScriptedModel([calls("buy", what="tea"), "I could not buy it."])
    agent = create_agent(model, tools=[shop.buy], middleware=middleware)
    ended = await ask(agent, policy=policy, **options)
    assert shop.made == []
    assert why in model.requests[1][-1].text
    assert ended.result.status == "failed"  # its last call that was to change something failed
    assert "buy" in ended.result.error


async def test_changed_arguments_go_back_to_the_model(ask):
    shop = Shop()
    model = ScriptedModel([calls("buy", what="tea"), calls("buy", what="milk"), "Bought."])
    ended = await ask(
        create_agent(model, tools=[shop.buy]), answers={"s": {"arguments": {"what": "milk"}}}
    )
    assert shop.made == [("buy", "milk")]
    assert '"milk"' in model.requests[1][-1].text
    assert ended.result.status == "success", ended.result.error


@pytest.mark.parametrize("where", ["the agent's config", "the run's metadata"])
async def test_metadata_of_a_run_is_no_hint_about_a_tool(ask, settings, where):
    import fractale

    shop, hint = Shop(), {"readOnlyHint": True}
    agent = create_agent(ScriptedModel([calls("buy", what="tea"), "Bought."]), tools=[shop.buy])
    if where == "the agent's config":
        status = (await ask(agent.with_config(metadata=hint))).result.status
    else:
        agents = {"helper": agent}
        status = (await fractale.arun(PLAN, agents=agents, settings=settings, metadata=hint)).status
    assert (status, shop.made) == ("waiting", [])


@pytest.mark.parametrize("first", [[], [calls("look", what="milk")]], ids=["unused", "used before"])
async def test_a_hint_is_of_one_tool_and_not_of_its_name(ask, first):
    shop, made = Shop(), []

    @tool("look")
    def other(what: str) -> str:
        """Changes something."""
        made.append(what)
        return what

    inner = create_agent(ScriptedModel([calls("look", what="tea"), "Inner."]), tools=[other])

    @tool
    async def delegate(task: str) -> str:
        """Ask another agent."""
        found = await inner.ainvoke({"messages": [("user", task)]})
        return found["messages"][-1].text

    delegate.metadata = {"readOnlyHint": True}
    model = ScriptedModel([*first, calls("delegate", task="look"), "Done."])
    ended = await ask(create_agent(model, tools=[delegate, shop.look]))
    assert (ended.result.status, made) == ("waiting", [])


async def test_changed_arguments_are_for_one_call(ask):
    shop = Shop()
    again = [calls("buy", what="milk")] * 2
    model = ScriptedModel([calls("buy", what="tea"), *again, "Bought."])
    answers = [{"arguments": {"what": "milk"}}, "no", "quit"]
    person = Person(lambda _: answers.pop(0))
    await ask(create_agent(model, tools=[shop.buy]), person=person)
    whats = [each["arguments"]["what"] for each in person.asked if "arguments" in each]
    assert whats == ["tea", "milk"]
    assert shop.made == [("buy", "milk")]


@pytest.mark.parametrize("asks_later", [False, True])
async def test_an_agent_that_catches_the_question_about_its_call_fails(ask, asks_later):
    shop = Shop()

    async def node(state: MessagesState) -> Any:
        del state
        try:
            said = await shop.buy.ainvoke({"what": "tea"})
        except Exception as error:  # noqa: BLE001 - as people's own code does
            said = f"could not buy: {type(error).__name__}"
        return {"messages": [AIMessage(said)]}

    def later(state: MessagesState) -> Any:
        del state
        return {"messages": [AIMessage(interrupt("sure?"))]} if asks_later else {}

    graph = StateGraph(MessagesState).add_node("n", node).add_node("later", later)
    graph = graph.add_edge(START, "n").add_edge("n", "later")
    ended = await ask(graph, answers={"s": "sure"})
    assert (ended.result.status, shop.made) == ("failed", [])
    assert "caught the question about its call of `helper.buy`" in ended.result.error


@pytest.mark.parametrize("sure", ["quit", "again"])
async def test_a_call_that_was_made_is_not_repeated_unasked_when_its_node_asks_later(ask, sure):
    shop = Shop()

    async def node(state: MessagesState) -> Any:
        del state
        said = await shop.buy.ainvoke({"what": "tea"})
        return {"messages": [AIMessage(f"{said} {interrupt('sure?')}")]}

    graph = StateGraph(MessagesState).add_node("n", node).add_edge(START, "n")
    words = {"approval": "yes", "in_doubt": "failed", "failure": "quit"}
    person = Person(lambda question: words.get(question["kind"], sure))
    await ask(graph, person=person, keep=True)
    assert shop.made == [("buy", "tea")]
    assert "in_doubt" in [each["kind"] for each in person.asked]


async def test_an_older_answer_is_never_one_to_a_later_question(settings):
    from langgraph.types import Command

    import fractale

    shop, wanted = Shop(), ["tea", "yacht", "yacht", "yacht"]
    graph = fractale.plan_graph(
        PLAN,
        agents={"helper": calling(lambda: shop.buy.ainvoke({"what": wanted.pop(0)}))},
        settings=settings,
        checkpointer=InMemorySaver(),
    )
    config: Any = {"configurable": {"thread_id": "1"}}
    await graph.ainvoke({}, config)
    for answer in ("yes", "no"):  # the first is about tea
        await graph.ainvoke(Command(resume=answer), config)
    assert shop.made == []


def calling(function: Callable[[], Any]) -> Any:
    """A graph of one node that calls something."""

    async def node(state: MessagesState) -> Any:
        del state
        return {"messages": [AIMessage(str(await function()))]}

    return StateGraph(MessagesState).add_node("work", node).add_edge(START, "work")


async def test_a_node_that_calls_a_tool_is_under_the_policy(ask):
    shop = Shop()
    graph = calling(lambda: shop.buy.ainvoke({"what": "tea"}))
    ended = await ask(graph, policy=PolicySettings(deny=("buy",)))
    assert ended.result.status == "failed"
    assert "deny" in ended.result.error
    assert shop.made == []
    assert (await ask(graph)).result.status == "waiting"
    assert (await ask(graph, yes=True)).outputs == {"content": "bought tea"}


async def test_a_sync_node_that_calls_a_tool_asks_in_its_own_thread(ask):
    shop = Shop()

    def node(state: MessagesState) -> Any:
        del state
        return {"messages": [AIMessage(shop.buy.invoke({"what": interrupt("what?")}))]}

    graph = StateGraph(MessagesState).add_node("n", node).add_edge(START, "n")
    person = Person(lambda question: "yes" if question["kind"] == "approval" else "tea")
    ended = await ask(graph, person=person)
    assert ended.outputs == {"content": "bought tea"}, ended.result.error
    assert [each["kind"] for each in person.asked] == ["interrupt", "approval"]
    assert shop.made == [("buy", "tea")]


@pytest.mark.parametrize("kind", ["invoke", "ainvoke", "stream", "batch in a thread pool"])
async def test_a_node_that_calls_a_model_counts(ask, kind):
    model = ScriptedModel(["Hello."] * 2)

    async def async_node(state: MessagesState) -> Any:
        if kind == "batch in a thread pool":  # the loop waits for threads that wait for the loop
            return {"messages": model.batch([state["messages"], state["messages"]])[:1]}
        return {"messages": [await model.ainvoke(state["messages"])]}

    def sync_node(state: MessagesState) -> Any:
        if kind == "stream":
            return {"messages": [AIMessage("".join(x.text for x in model.stream("hi")))]}
        return {"messages": [model.invoke(state["messages"])]}

    node: Any = sync_node if kind in ("invoke", "stream") else async_node
    graph = StateGraph(MessagesState).add_node("work", node).add_edge(START, "work").compile()
    ended = await ask(graph)
    assert ended.outputs == {"content": "Hello."}
    assert len(ended.of("model_finished")) == len(model.requests)
    assert ended.result.usage["total_tokens"] > 0


# Questions


async def test_its_own_interrupt_is_a_question_of_the_run(ask):
    class State(TypedDict):
        topic: str
        said: str

    entered: list[str] = []

    def first(state: State) -> Any:
        entered.append("first")
        return {}

    def second(state: State) -> Any:
        entered.append("second")
        return {"said": f"{state['topic']}: {interrupt({'question': 'which?'})}"}

    builder = StateGraph(State).add_node("first", first).add_node("second", second)
    graph = builder.add_edge(START, "first").add_edge("first", "second").compile()
    plan = PLAN.replace("instruction: Do it.", "inputs: {topic: tea}")
    saver = InMemorySaver()
    ended = await ask(graph, plan, checkpointer=saver, run_id="r")
    assert ended.result.status == "waiting"
    (question,) = ended.result.waiting
    assert {k: question[k] for k in ("kind", "step", "agent", "value")} == {
        "kind": "interrupt",
        "step": "s",
        "agent": "helper",
        "value": {"question": "which?"},
    }
    assert entered == ["first", "second"]
    for given in ("green", {"leaf": 1}, 3):
        done = await ask(graph, plan, answers={"s": given})
        assert done.outputs == {"topic": "tea", "said": f"tea: {given}"}, done.result


def approving(shop: Shop, *names: str, **config: Any) -> Any:
    replies = [calls(*names, what="tea"), "Ended."]
    on: Any = dict.fromkeys(("buy", "look"), config or True)
    return create_agent(
        ScriptedModel(replies),
        tools=[shop.buy, shop.look],
        middleware=[HumanInTheLoopMiddleware(interrupt_on=on)],
        checkpointer=InMemorySaver(),
    )


@pytest.mark.parametrize(
    ("answer", "made"),
    [
        ("yes", [("buy", "tea")]),
        ({"decisions": [{"type": "approve"}]}, [("buy", "tea")]),
        ("no", []),
        ({"decisions": [{"type": "reject", "message": "too dear"}]}, []),
    ],
)
async def test_a_review_of_langchains_form_is_answered_once(ask, answer, made):
    shop = Shop()
    ended = await ask(approving(shop, "buy"), answers={"s": answer})
    assert shop.made == made
    assert ended.result.status == ("success" if made else "failed"), ended.result
    assert len(ended.of("answered")) == 1


async def test_a_review_of_two_calls_has_two_decisions(ask):
    shop = Shop()
    ended = await ask(approving(shop, "buy", "look"))
    (question,) = ended.result.waiting
    assert [each["name"] for each in question["value"]["action_requests"]] == ["buy", "look"]
    two = {"decisions": [{"type": "reject"}, {"type": "approve"}]}
    ended = await ask(approving(shop, "buy", "look"), answers={"s": two})
    assert shop.made == [("look", "tea")]
    shop.made.clear()
    await ask(approving(shop, "buy", "look"), yes=True)
    assert sorted(shop.made) == [("buy", "tea"), ("look", "tea")]


async def test_a_review_that_edits_a_call(ask):
    shop = Shop()
    edit = {"arguments": {"what": "milk"}}
    ended = await ask(approving(shop, "buy"), answers={"s": edit}, yes=True)
    assert shop.made == [("buy", "milk")], ended.result


async def test_a_decision_that_is_not_allowed_is_an_error(ask):
    shop = Shop()
    for answer in ("no", {"decisions": []}, "perhaps", {"decisions": [{"type": "maybe"}]}):
        with pytest.raises(AnswerError):
            await ask(approving(shop, "buy", allowed_decisions=["approve"]), answers={"s": answer})
    assert shop.made == []


def reviewed_then_delegated(shop: Shop, times: int = 1) -> Any:
    """Asks about a call of its own. Then a tool of it lets another agent make the same call."""
    same = [calls("buy", what="tea")] * times
    inner = create_agent(ScriptedModel([*same, "Inner."]), tools=[shop.buy])

    @tool
    async def delegate(task: str) -> str:
        """Ask another agent."""
        found = await inner.ainvoke({"messages": [("user", task)]})
        return found["messages"][-1].text

    delegate.metadata = {"readOnlyHint": True}
    model = ScriptedModel([calls("buy", what="tea"), calls("delegate", task="buy"), "Done."])
    review = HumanInTheLoopMiddleware(interrupt_on={"buy": True})
    return create_agent(model, tools=[shop.buy, delegate], middleware=[review])


@pytest.mark.parametrize(("decision", "made"), [("approve", 1), ("reject", 0)])
@pytest.mark.parametrize("way", ["a run", "a plan's graph", "a plan's graph, by id"])
async def test_a_decision_is_about_one_call(ask, settings, way, decision, made):
    from langgraph.types import Command

    import fractale

    shop = Shop()
    agent, answer = reviewed_then_delegated(shop, 3), {"decisions": [{"type": decision}]}
    if way == "a run":

        def say(question: dict[str, Any]) -> Any:
            return answer if question["kind"] == "interrupt" else "no"

        person = Person(say)
        await ask(agent, person=person)
        asked = person.asked
    else:
        graph = fractale.plan_graph(
            PLAN, agents={"helper": agent}, settings=settings, checkpointer=InMemorySaver()
        )
        config: Any = {"configurable": {"thread_id": "1"}}
        (first,) = (await graph.ainvoke({}, config))["__interrupt__"]
        given = {first.id: answer} if way.endswith("by id") else answer
        state = await graph.ainvoke(Command(resume=given), config)
        asked = [first.value, *(each.value for each in state["__interrupt__"])]
    assert [each["kind"] for each in asked][:2] == ["interrupt", "approval"]
    assert shop.made == [("buy", "tea")] * made


@pytest.mark.parametrize("answer", [{"decisions": []}, {"decisions": [{"type": "approve"}] * 2}])
async def test_a_wrong_number_of_decisions_is_no_approval(settings, answer):
    from langchain_core.runnables import RunnableConfig
    from langgraph.errors import GraphBubbleUp
    from langgraph.types import Command

    import fractale

    shop = Shop()
    inner = approving(shop, "buy").copy(update={"checkpointer": None})

    async def node(state: MessagesState, config: RunnableConfig) -> Any:
        del state
        try:
            return await inner.ainvoke({"messages": [("user", "buy")]}, config)
        except GraphBubbleUp:
            raise
        except Exception:  # noqa: BLE001 - as people's own code does
            return {"messages": [AIMessage(await shop.buy.ainvoke({"what": "tea"}))]}

    builder = StateGraph(MessagesState).add_node("n", node).add_edge(START, "n")
    graph = fractale.plan_graph(
        PLAN, agents={"helper": builder}, settings=settings, checkpointer=InMemorySaver()
    )
    config: Any = {"configurable": {"thread_id": "1"}}
    await graph.ainvoke({}, config)
    with pytest.raises(AnswerError):
        await graph.ainvoke(Command(resume=answer), config)
    assert shop.made == []


async def test_an_approval_is_not_for_a_tool_of_the_same_name(ask):
    shop, made = Shop(), []

    @tool("buy")
    def other(what: str) -> str:
        """Another tool."""
        made.append(what)
        return what

    inner = create_agent(ScriptedModel([calls("buy", what="tea"), "Inner."]), tools=[other])

    @tool
    async def delegate(task: str) -> str:
        """Ask another agent."""
        found = await inner.ainvoke({"messages": [("user", task)]})
        return found["messages"][-1].text

    delegate.metadata = {"readOnlyHint": True}
    two = Reply(tool_calls=[("delegate", {"task": "buy"}), ("buy", {"what": "tea"})])
    review = HumanInTheLoopMiddleware(interrupt_on={"buy": True})
    agent = create_agent(
        ScriptedModel([two, "Done."]), tools=[shop.buy, delegate], middleware=[review]
    )
    person = Person(lambda question: "yes" if question["kind"] == "interrupt" else "no")
    await ask(agent, person=person)
    assert [each["kind"] for each in person.asked] == ["interrupt", "approval"]
    assert (shop.made, made) == ([("buy", "tea")], [])


async def test_an_approval_lasts_while_the_call_asks_something(ask):
    @tool
    def order(what: str) -> str:
        """Order something."""
        return f"{interrupt('how much?')} {what}"

    review = HumanInTheLoopMiddleware(interrupt_on={"order": True})
    model = ScriptedModel([calls("order", what="tea"), "Ordered."])
    person = Person(lambda q: "yes" if "action_requests" in q["value"] else "two")
    ended = await ask(create_agent(model, tools=[order], middleware=[review]), person=person)
    assert ended.outputs == {"content": "Ordered."}, ended.result
    assert [each["kind"] for each in person.asked] == ["interrupt", "interrupt"]
    assert model.requests[1][-1].text == "two tea"


async def test_a_breakpoint_is_a_question(ask):
    shop = Shop()
    builder = calling(lambda: shop.look.ainvoke({"what": "tea"}))
    graph = builder.compile(interrupt_before=["work"])
    ended = await ask(graph)
    assert ended.result.status == "waiting"
    assert ended.result.waiting[0]["value"] == {"breakpoint": "helper"}
    done = await ask(graph, answers={"s": "continue"})
    assert done.outputs == {"content": "tea costs 3"}, done.result


@pytest.mark.parametrize("form", ["bare", "id"])
@pytest.mark.parametrize("composed", ["alone", "node"])
async def test_a_breakpoint_is_left_only_by_its_answer(settings, composed, form):
    import fractale

    shop = Shop()
    builder = calling(lambda: shop.look.ainvoke({"what": "tea"}))
    builder.add_node("next", lambda _: {"messages": [AIMessage("Ended.")]})
    agent = builder.add_edge("work", "next").compile(interrupt_before=["work", "next"])
    options: Any = {"agents": {"helper": agent}, "settings": settings}
    graph: Any = fractale.plan_graph(PLAN, checkpointer=InMemorySaver(), **options)
    if composed == "node":
        outer = StateGraph(Around).add_node("plan", fractale.as_node(PLAN, **options))
        graph = outer.add_edge(START, "plan").compile(checkpointer=InMemorySaver())
    state: Any = await graph.ainvoke({}, THREAD)
    for made in ([], [("look", "tea")]):
        for wrong in ("no", {"stop": True}):
            (asked,) = state["__interrupt__"]
            assert asked.value["value"] == {"breakpoint": "helper"}
            resume = Command(resume={asked.id: wrong} if form == "id" else wrong)
            if composed == "alone":
                with pytest.raises(AnswerError, match="is not a valid answer"):
                    await graph.ainvoke(resume, THREAD)
            else:
                state = await graph.ainvoke(resume, THREAD)
                assert "not a valid answer" in state["__interrupt__"][0].value["problem"]
            assert shop.made == made
        (asked,) = state["__interrupt__"]
        answer = {asked.id: "continue"} if form == "id" else "continue"
        state = await graph.ainvoke(Command(resume=answer), THREAD)
    assert "Ended." in str(state)


async def test_an_interrupt_that_is_lost_is_no_answer(ask):
    class State(TypedDict):
        said: str

    inner = StateGraph(State).add_node("ask", lambda _: {"said": interrupt("which?")})
    alone = inner.add_edge(START, "ask").compile(checkpointer=InMemorySaver())

    async def call(state: State) -> Any:
        import asyncio
        import contextvars

        config = {"configurable": {"thread_id": "x"}}
        lost = asyncio.create_task(
            alone.ainvoke({"said": ""}, config), context=contextvars.Context()
        )
        return await lost

    outer = StateGraph(dict).add_node("call", call).add_edge(START, "call").compile()
    ended = await ask(outer)
    assert ended.result.status == "failed", ended.result


async def test_reviews_of_single_calls(ask):
    shop = Shop()

    def agent() -> Any:
        return create_agent(
            ScriptedModel([calls("buy", "look", what="tea"), "Ended."]),
            tools=[shop.buy, shop.look],
            middleware=[
                HumanInTheLoopMiddleware(
                    interrupt_on={"buy": {"allowed_decisions": ["approve", "reject"]}},
                    interrupt_mode="per_call",
                )
            ],
        )

    ended = await ask(agent())
    (question,) = ended.result.waiting
    assert question["value"]["type"] == "tool_approval"
    assert question["schema"]
    with pytest.raises(AnswerError):
        await ask(agent(), answers={"s": {"type": "edit"}})
    shop.made.clear()
    ended = await ask(agent(), answers={"s": "yes"})
    assert sorted(shop.made) == [("buy", "tea"), ("look", "tea")]
    assert ended.outputs == {"content": "Ended."}
    assert len(ended.of("answered")) == 1


# Input and output


async def test_inputs_go_into_the_state_the_context_and_the_message(ask):
    class State(MessagesState):
        topic: str
        score: int

    @dataclass
    class About:
        tone: str = "plain"
        who: str = "me"

    def node(state: State, runtime: Runtime[About]) -> Any:
        said = f"{runtime.context.tone}/{runtime.context.who}: {state['messages'][-1].text}"
        return {"messages": [AIMessage(said)], "score": len(state["topic"])}

    graph = StateGraph(State, context_schema=About).add_node("n", node).add_edge(START, "n")
    plan = PLAN.replace(
        "instruction: Do it.",
        "instruction: Do it., inputs: {topic: tea, tone: dry, more: [1, 2]}",
    )
    ended = await ask(graph, plan)
    assert ended.outputs == {
        "content": "dry/me: Do it.\n\nmore: [1, 2]",
        "topic": "tea",
        "score": 3,
    }, ended.result


async def test_a_structured_answer_is_its_outputs(ask):
    class Price(TypedDict):
        price: int

    model = ScriptedModel([calls("Price", price=3)])
    ended = await ask(create_agent(model, tools=[], response_format=ToolStrategy(Price)))
    assert ended.outputs == {"price": 3}, ended.result.error


async def test_json_is_read_and_a_schema_is_checked(ask):
    plan = PLAN.replace(
        "instruction: Do it.",
        "instruction: Do it., output_schema: {type: object, required: [price]}",
    )
    assert (await ask(create_agent(ScriptedModel(['{"price": 3}']), tools=[]), plan)).outputs == {
        "price": 3
    }
    ended = await ask(create_agent(ScriptedModel(["three"]), tools=[]), plan)
    assert ended.result.status == "failed"


async def test_an_empty_answer_is_no_success(ask):
    ended = await ask(create_agent(ScriptedModel([Reply(empty=True)]), tools=[]))
    assert (ended.result.status, "without an answer" in ended.result.error) == ("failed", True)


async def test_an_error_inside_is_the_steps(ask):
    async def fail() -> Any:
        raise RuntimeError("no tea left")

    ended = await ask(calling(fail))
    assert ended.result.status == "failed"
    assert "no tea left" in ended.result.error
    broken = ScriptedModel([Reply(status=400, text="not like this")])
    ended = await ask(create_agent(broken, tools=[]))
    assert "not like this" in ended.result.error
    assert len(ended.of("model_finished")) == 1


async def test_it_keeps_its_store_and_not_the_runs_context(ask):
    store = InMemoryStore()
    store.put(("shop",), "tea", {"price": 3})
    found: list[Any] = []

    async def node(state: MessagesState, runtime: Runtime[Any]) -> Any:
        del state
        found.append(runtime.context)
        price = (await runtime.store.aget(("shop",), "tea")).value["price"]
        return {"messages": [AIMessage(str(price))]}

    graph = StateGraph(MessagesState).add_node("n", node).add_edge(START, "n")
    ended = await ask(graph.compile(store=store, checkpointer=InMemorySaver()))
    assert ended.outputs == {"content": "3"}, ended.result.error
    assert found == [None]


async def test_its_conversation_goes_on_in_the_next_attempt(ask):
    model = ScriptedModel(["first", "second"])
    plan = """
    name: p
    steps:
      - name: s
        agent: helper
        instruction: Do it.
        persist: true
        max_attempts: 3
        rules: {failure: ["content == 'first'"]}
        transitions: {failure: s}
    outputs: {all: "{{ steps.s.outputs }}"}
    """
    ended = await ask(create_agent(model, tools=[]), plan)
    assert ended.outputs == {"content": "second"}
    assert [message.text for message in model.requests[1]][:2] == ["Do it.", "first"]


# Ways to give one


def made() -> Any:
    return create_agent(ScriptedModel(["Made."]), tools=[])


async def made_async() -> Any:
    return made()


def made_with_config(config: Any) -> Any:
    assert config["configurable"]["thread_id"]
    return made()


@asynccontextmanager
async def made_for_a_while():
    yield made()


def made_builder() -> Any:
    return StateGraph(MessagesState).add_node("a", made()).add_edge(START, "a")


@pytest.mark.parametrize(
    "factory", [made, made_async, made_with_config, made_for_a_while, made_builder]
)
async def test_a_function_can_make_it(ask, factory):
    assert (await ask(factory)).outputs == {"content": "Made."}


async def test_a_function_that_makes_something_else_is_an_error(ask):
    ended = await ask(lambda: 42)
    assert "returned int" in ended.result.error
    for wrong in (42, "text", {"x": 1}):
        with pytest.raises(PlanError, match="must be a `Subagent`, a LangGraph graph"):
            await ask([wrong])


async def test_a_builder_with_a_type_that_has_no_schema(ask):
    import typing

    State = typing.TypedDict("State", {"topic": str})  # noqa: UP013 - LangGraph's own examples have it
    graph = StateGraph(State).add_node("n", lambda state: {"topic": state["topic"] * 2})
    plan = PLAN.replace("instruction: Do it.", "inputs: {topic: tea}")
    assert (await ask(graph.add_edge(START, "n"), plan)).outputs == {"topic": "teatea"}


async def test_other_agents_ask_it(ask):
    inner = create_agent(ScriptedModel(["Inner."]), tools=[], name="clerk")

    @tool
    async def clerk(task: str) -> str:
        """Ask the clerk."""
        found = await inner.ainvoke({"messages": [("user", task)]})
        return found["messages"][-1].text

    model = ScriptedModel([calls("clerk", task="look"), "Outer."])
    ended = await ask(create_agent(model, tools=[clerk]), yes=True)
    assert ended.outputs == {"content": "Outer."}
    agents = [event["agent"] for event in ended.of("model_started")]
    assert agents == ["helper", "helper/clerk", "helper"]


class Person:
    """Answers what a run asks, and keeps the questions."""

    def __init__(self, say: Callable[[dict[str, Any]], Any]) -> None:
        self._say = say
        self.asked: list[dict[str, Any]] = []

    async def answer(self, question: dict[str, Any]) -> Any:
        self.asked.append(dict(question))
        return self._say(question)


async def test_a_question_inside_a_tool_is_asked(ask):
    finished: list[str] = []

    @tool
    def order(what: str) -> str:
        """Order something."""
        said = interrupt(f"how much {what}?")
        finished.append(what)
        return f"{said} {what}"

    person = Person(lambda question: "yes" if question["kind"] == "approval" else "two")
    model = ScriptedModel([calls("order", what="tea"), "Ordered."])
    ended = await ask(create_agent(model, tools=[order]), person=person)
    assert ended.outputs == {"content": "Ordered."}, ended.result
    assert [each["kind"] for each in person.asked] == ["approval", "interrupt"]
    assert model.requests[1][-1].text == "two tea"
    assert finished == ["tea"]


def one_node_of_tools(model: Any, shop: Shop) -> Any:
    """An agent whose tool calls of a turn are one task of LangGraph."""

    async def think(state: MessagesState) -> Any:
        return {"messages": [await model.ainvoke(state["messages"])]}

    def leads(state: MessagesState) -> str:
        return "act" if state["messages"][-1].tool_calls else END

    async def act(state: MessagesState) -> Any:
        return await ToolNode([shop.buy, shop.look]).ainvoke(state)

    graph = StateGraph(MessagesState).add_node("think", think).add_node("act", act)
    graph = graph.add_edge(START, "think").add_edge("act", "think")
    return graph.add_conditional_edges("think", leads, ["act", END])


@pytest.mark.parametrize("kind", ["create_agent", "one task"])
async def test_calls_of_one_turn_are_approved_one_by_one(ask, kind):
    shop = Shop()
    two = Reply(tool_calls=[("buy", {"what": "tea"}), ("buy", {"what": "milk"})])
    model = ScriptedModel([two, "Bought."])
    agent = (
        create_agent(model, tools=[shop.buy])
        if kind == "create_agent"
        else one_node_of_tools(model, shop)
    )
    person = Person(lambda _: "yes")
    ended = await ask(agent, person=person)
    assert ended.outputs == {"content": "Bought."}, ended.result
    assert {each["arguments"]["what"] for each in person.asked} == {"tea", "milk"}
    if kind == "create_agent":
        assert sorted(shop.made) == [("buy", "milk"), ("buy", "tea")]
    assert len(model.requests) == 2


@pytest.mark.parametrize("kind", ["create_agent", "one task"])
async def test_a_call_is_not_made_twice_when_its_task_is_repeated(ask, kind, settings):
    """The first call is approved and made; the second one asks. Then the task runs again."""
    shop = Shop()
    two = Reply(tool_calls=[("buy", {"what": "tea"}), ("buy", {"what": "milk"})])
    model = ScriptedModel([two, "Bought."])
    agent = (
        create_agent(model, tools=[shop.buy])
        if kind == "create_agent"
        else one_node_of_tools(model, shop)
    )
    policy = PolicySettings(allow=(ToolRule("buy", {"what": "tea"}),))
    del settings
    ended = await ask(agent, person=Person(lambda _: "yes"), keep=True, policy=policy)
    assert ended.outputs == {"content": "Bought."}, ended.result
    assert sorted(shop.made) == [("buy", "milk"), ("buy", "tea")]


# deepagents


async def test_a_tool_with_the_name_of_one_of_theirs_is_another_tool(ask):
    made: list[str] = []

    @tool
    def task(what: str) -> str:
        """Do a task."""
        made.append(what)
        return what

    model = ScriptedModel([calls("task", what="tea"), "Done."])
    ended = await ask(create_agent(model, tools=[task]))
    assert ended.result.status == "waiting"
    assert made == []


async def test_deepagents(ask):
    from deepagents import create_deep_agent

    shop = Shop()
    todo = {"todos": [{"content": "buy tea", "status": "pending"}]}
    task = {"description": "Buy tea.", "subagent_type": "buyer"}
    model = ScriptedModel(
        [
            Reply(tool_calls=[("write_todos", todo)]),
            Reply(tool_calls=[("task", task)]),
            calls("buy", what="tea"),
            "Tea is bought.",
            "All done.",
        ]
    )
    buyer = {
        "name": "buyer",
        "description": "Buys.",
        "system_prompt": "You buy.",
        "tools": [shop.buy],
        "model": model,
    }
    agent = create_deep_agent(
        model=model, tools=[], subagents=[buyer], middleware=[TodoListMiddleware()]
    )
    person = Person(lambda _: "yes")
    ended = await ask(agent, person=person)
    assert ended.result.status == "success", ended.result
    assert ended.outputs["content"] == "All done."
    assert ended.outputs["todos"] == todo["todos"]
    assert [each["tool"] for each in person.asked] == ["buy"]
    assert shop.made == [("buy", "tea")]
    by = [event["agent"] for event in ended.of("model_started")]
    assert by == ["helper", "helper", "helper/buyer", "helper/buyer", "helper"]
    assert len(model.requests) == 5
    assert [e["is_error"] for e in ended.of("tool_finished")].count(True) == 0


@pytest.mark.parametrize("where", ["state", "disk"])
async def test_deepagents_reads_its_own_files_without_approval_and_the_machines_with_one(
    ask, where
):
    from deepagents import create_deep_agent
    from deepagents.backends import FilesystemBackend, StateBackend

    backend = StateBackend() if where == "state" else FilesystemBackend(virtual_mode=False)
    model = ScriptedModel(
        [
            calls("ls", path="/"),
            calls("glob", pattern="*.md", path="/"),
            calls("grep", pattern="x", path="/notes"),
            calls("read_file", file_path="/notes/a.md"),
            "Done.",
        ]
    )
    ended = await ask(create_deep_agent(model=model, tools=[], backend=backend))
    if where == "state":
        assert ended.outputs["content"] == "Done.", ended.result
        return
    assert ended.result.status == "waiting"
    (asked,) = ended.result.waiting
    assert (asked["kind"], asked["tool"]) == ("approval", "ls")


# In other places


async def test_the_generalist_asks_it(ask, settings):
    shop = Shop()
    inner = create_agent(ScriptedModel([calls("buy", what="tea"), "Bought tea."]), tools=[shop.buy])
    outer = ScriptedModel([calls("helper", instruction="Buy tea."), "It is bought."])
    plan = "name: p\nsteps: [{name: s, instruction: Have tea bought.}]\n"
    events: list[Event] = []
    person = Person(lambda _: "yes")
    given = Extensions(given={"helper": inner})
    async with Workspace.open(settings, load(plan), given, model=outer) as workspace:
        options = RunOptions(listeners=[events.append], person=person)
        result = await workspace.runs.start(load(plan), None, options)
    assert result.status == "success", result
    assert shop.made == [("buy", "tea")]
    assert [each["tool"] for each in person.asked] == ["buy"]
    agents = [event.data.get("agent") for event in events if event.kind == "model_started"]
    assert agents == [None, "helper", "helper", None]


async def test_items_ask_it_at_the_same_time(ask):
    def said(messages: list[Any]) -> str:
        return messages[-1].text.upper()

    plan = """
    name: p
    steps:
      - {name: s, foreach: "['a', 'b', 'c']", agent: helper, instruction: "do {{ item }}"}
    outputs: {all: "{{ steps.s.outputs }}"}
    """
    ended = await ask(create_agent(ScriptedModel(said), tools=[]), plan)
    assert [each["content"] for each in ended.outputs] == ["DO A", "DO B", "DO C"]


async def test_in_a_graph_of_langgraph(settings):
    """`compile_plan` alone: the answer goes to the agent's node, its tokens are streamed."""
    from langgraph.types import Command

    from fractale import Dependencies, RunContext, compile_plan, initial_state
    from fractale.agents.catalog import Catalog
    from fractale.agents.own import as_agents
    from fractale.testing import FakeToolServer

    del settings
    model = ScriptedModel(["Hello there."])

    async def node(state: MessagesState) -> Any:
        who = interrupt({"question": "who?"})
        answer = await model.ainvoke([*state["messages"], ("user", str(who))])
        return {"messages": [answer]}

    graph = StateGraph(MessagesState).add_node("n", node).add_edge(START, "n")
    catalog = Catalog(as_agents({"helper": graph}))
    deps = Dependencies(toolbox=FakeToolServer(), agents=catalog)
    built = compile_plan(load(PLAN), deps).compile(checkpointer=InMemorySaver())
    config: Any = {"configurable": {"thread_id": "1"}}
    context = RunContext(run_id="1", plan_name="p")
    state = await built.ainvoke(initial_state({}), config, context=context)
    (asked,) = state["__interrupt__"]
    assert asked.value["value"] == {"question": "who?"}
    tokens: list[str] = []
    stream = built.astream(
        Command(resume={"name": "me"}),
        config,
        context=context,
        stream_mode="messages",
        subgraphs=True,
    )
    async for _, (chunk, _) in stream:
        tokens.append(chunk.text)
    assert "".join(tokens).startswith("Hello there.")
    assert model.requests[0][-1].text == "{'name': 'me'}"
    state = (await built.aget_state(config)).values
    assert state["status"] == "success"


def test_a_graph_is_not_served_as_a_tool():
    from fractale.registry import build_server

    with pytest.raises(PlanError, match="as a sub-agent, not as a tool"):
        build_server([], functions=[made()])


async def test_a_model_that_is_not_seen_is_a_warning(ask):
    async def hidden() -> Any:
        import asyncio
        import contextvars

        model = ScriptedModel(["Hidden."])
        empty = contextvars.Context()
        return await asyncio.create_task(model.ainvoke("hi"), context=empty)

    async def node(state: MessagesState) -> Any:
        del state
        return {"messages": [await hidden()]}

    graph = StateGraph(MessagesState).add_node("n", node).add_edge(START, "n")
    ended = await ask(graph)
    assert ended.outputs == {"content": "Hidden."}
    assert [each["code"] for each in ended.of("warning")] == ["unseen-model"]
    ended = await ask(create_agent(ScriptedModel(["Seen."]), tools=[]))
    assert ended.of("warning") == []


async def test_in_a_plans_graph_langchains_own_answer_is_enough(settings):
    import fractale

    for answer, made in (("approve", [("buy", "tea")]), ("reject", [])):
        shop = Shop()
        graph = fractale.plan_graph(
            PLAN,
            agents={"helper": approving(shop, "buy")},
            settings=settings,
            checkpointer=InMemorySaver(),
        )
        config: Any = {"configurable": {"thread_id": "1"}}
        state = await graph.ainvoke({}, config)
        (asked,) = state["__interrupt__"]
        assert asked.value["value"]["action_requests"][0]["name"] == "buy"
        resume = Command(resume={"decisions": [{"type": answer}]})
        state = await graph.ainvoke(resume, config)
        assert "__interrupt__" not in state, state
        assert shop.made == made
        assert state["status"] == ("success" if made else "failed"), state


def reviewed_graph(
    settings: Settings, shop: Shop, *names: str, plan: str = PLAN, **mode: Any
) -> Any:
    """A plan's graph with an agent that LangChain's middleware reviews."""
    import fractale

    agent = create_agent(
        ScriptedModel([calls(*names, what="tea"), "Ended."]),
        tools=[shop.buy, shop.look],
        middleware=[HumanInTheLoopMiddleware(interrupt_on={"buy": True, "look": True}, **mode)],
    )

    def last() -> str:
        """Do the last thing."""
        shop.made.append("last")
        return "done"

    return fractale.plan_graph(
        plan,
        agents={"helper": agent},
        tools=[last],
        settings=settings,
        checkpointer=InMemorySaver(),
    )


THREAD: Any = {"configurable": {"thread_id": "1"}}
APPROVE, REJECT = {"type": "approve"}, {"type": "reject"}


@pytest.mark.parametrize("mode", [{}, {"interrupt_mode": "per_call"}], ids=["batched", "per call"])
@pytest.mark.parametrize(
    ("answer", "made"),
    [
        ("yes", True),
        (True, True),
        (APPROVE, True),
        ({"decisions": [APPROVE]}, True),
        ("no", False),
        (False, False),
        ({"decisions": [REJECT]}, False),
    ],
    ids=repr,
)
@pytest.mark.parametrize("by_id", [False, True])
async def test_a_plans_graph_reads_each_answer_to_a_review(settings, mode, answer, made, by_id):
    shop = Shop()
    graph = reviewed_graph(settings, shop, "buy", **mode)
    (asked,) = (await graph.ainvoke({}, THREAD))["__interrupt__"]
    state = await graph.ainvoke(Command(resume={asked.id: answer} if by_id else answer), THREAD)
    assert "__interrupt__" not in state, state
    assert shop.made == ([("buy", "tea")] if made else [])
    assert state["status"] == ("success" if made else "failed"), state


@pytest.mark.parametrize("mode", [{}, {"interrupt_mode": "per_call"}], ids=["batched", "per call"])
async def test_a_plans_graph_refuses_what_is_no_answer_and_asks_on(settings, mode):
    shop = Shop()
    graph = reviewed_graph(settings, shop, "buy", **mode)
    (asked,) = (await graph.ainvoke({}, THREAD))["__interrupt__"]
    before = await graph.aget_state(THREAD)
    nonsense = {"decisions": [{"type": "nonsense"}]}
    for wrong in ("perhaps", nonsense, {"decisions": []}, 3, {asked.id: "perhaps"}):
        with pytest.raises(AnswerError, match="`s`") as refused:
            await graph.ainvoke(Command(resume=wrong), THREAD)
        assert isinstance(refused.value, ValueError)  # LangGraph's server shows it
    assert await graph.aget_state(THREAD) == before
    assert shop.made == []
    edited = await graph.ainvoke(Command(resume={"arguments": {"what": "milk"}}), THREAD)
    (approval,) = edited["__interrupt__"]  # of a call that the person changed
    assert approval.value["arguments"] == {"what": "milk"}
    state = await graph.ainvoke(Command(resume="yes"), THREAD)
    assert (state["status"], shop.made) == ("success", [("buy", "milk")]), state


async def test_of_several_reviews_each_answer_is_read(settings):
    shop = Shop()
    graph = reviewed_graph(settings, shop, "buy", "look")
    await graph.ainvoke({}, THREAD)
    with pytest.raises(AnswerError, match="1 decisions for 2 calls"):
        await graph.ainvoke(Command(resume={"decisions": [APPROVE]}), THREAD)
    state = await graph.ainvoke(Command(resume="yes"), THREAD)
    assert state["status"] == "success", state
    assert sorted(shop.made) == [("buy", "tea"), ("look", "tea")]

    shop = Shop()
    graph = reviewed_graph(settings, shop, "buy", "look", interrupt_mode="per_call")
    state: Any = await graph.ainvoke({}, THREAD)
    while asked := state.get("__interrupt__"):
        ids = [each.id for each in asked]
        with pytest.raises(AnswerError):
            await graph.ainvoke(Command(resume={**dict.fromkeys(ids, "yes"), ids[-1]: "?"}), THREAD)
        assert shop.made == []
        state = await graph.ainvoke(Command(resume=dict.fromkeys(ids, "yes")), THREAD)
    assert sorted(shop.made) == [("buy", "tea"), ("look", "tea")]


@pytest.mark.parametrize("mode", [{}, {"interrupt_mode": "per_call"}], ids=["batched", "per call"])
@pytest.mark.parametrize("forms", [("bare", "bare"), ("id", "id"), ("bare", "id"), ("id", "bare")])
async def test_inside_another_graph_an_answer_that_is_none_is_asked_for_again(
    settings, mode, forms
):
    import fractale

    shop = Shop()
    text = PLAN.replace("Do it.}]", "Do it.}, {name: t, tool: last, approve: always}]")
    inner = reviewed_graph(settings, shop, "buy", plan=text, **mode)
    builder = StateGraph(Around).add_node("plan", fractale.as_node(inner)).add_edge(START, "plan")
    graph = builder.compile(checkpointer=InMemorySaver())

    async def answer(value: Any, form: str, asked: Any) -> Any:
        resume = Command(resume={asked.id: value} if form == "id" else value)
        return await graph.ainvoke(resume, THREAD)

    state: Any = await graph.ainvoke({}, THREAD)
    for wrong in ("perhaps", {"decisions": [{"type": "nonsense"}]}):
        (asked,) = state["__interrupt__"]
        state = await answer(wrong, forms[0], asked)
    (again,) = state["__interrupt__"]
    assert again.id == asked.id
    assert "`nonsense` is not an allowed decision" in again.value["problem"]
    assert shop.made == []
    state = await answer("yes", forms[1], again)
    assert shop.made == [("buy", "tea")]
    (approval,) = state["__interrupt__"]
    assert (approval.value["kind"], approval.value.get("problem")) == ("approval", None)
    state = await answer("yes", forms[0], approval)
    assert (state["all"], shop.made[1:]) == ({"content": "Ended."}, ["last"]), state


def asking(schema: Any = None) -> Any:
    """A graph that says what its question was answered with."""

    def node(_: Any) -> Any:
        return {"messages": [AIMessage(repr(interrupt("How many?", response_schema=schema)))]}

    return StateGraph(MessagesState).add_node("n", node).add_edge(START, "n")


@pytest.mark.parametrize(
    ("schema", "answer", "got"),
    [
        (None, "42", "'42'"),
        (None, " yes ", "' yes '"),
        (None, {"decisions": []}, "{'decisions': []}"),
        ({"type": "string"}, "42", "'42'"),
        ({"type": "integer"}, 42, "42"),
        ({"type": "integer"}, "42", "42"),
        ({"type": "integer"}, "many", None),
    ],
)
async def test_a_plans_graph_passes_on_the_value_that_a_graph_wants(settings, schema, answer, got):
    import fractale

    graph = fractale.plan_graph(
        PLAN,
        agents={"helper": asking(schema)},
        settings=settings,
        checkpointer=InMemorySaver(),
    )
    await graph.ainvoke({}, THREAD)
    if got is None:
        with pytest.raises(AnswerError, match="'many' is not of type 'integer'"):
            await graph.ainvoke(Command(resume=answer), THREAD)
        return
    state = await graph.ainvoke(Command(resume=answer), THREAD)
    assert got in str(state["outputs"]), state


async def test_python_gives_it_as_an_object(settings):
    import fractale

    shop = Shop()
    for agents in ({"helper": approving(shop, "buy")}, {"helper": made}):
        result = await fractale.arun(PLAN, agents=agents, settings=settings, yes=True)
        assert result.status == "success", result
