"""The questions that a run asks its user, and the meaning of the answers.

A question is a plain mapping, so that it can wait in a checkpoint for days. The field `kind` is
one of these:

=============  ===================================================================================
kind           fields, and the answers to it
=============  ===================================================================================
question       text, choices [text], default (or null), free (whether any text may be answered):
               the text of the choice, or any text. Of an ask step also `follow_up` (choice →
               what is asked next): ``{answer: choice, text: text}``; or `form` (JSON Schema of an
               object): the object
approval       server, tool, definition (a hash), arguments, why, origins (where untrusted
               arguments came from), yes (false: ``--yes`` does not agree): true (once), false,
               ``always`` (this tool, in this run), ``{always: {fix: {...}}}`` (if these
               arguments have these values), ``{arguments: {...}}`` (agreed, with these arguments
               instead), or ``{refuse: text}`` (false, with the reason)
tool_changed   server, tool (names), tools (name → hash), diff: ``accept`` or ``reject``
review         plan (YAML text), changes (unified diff to the previous draft, or null), round:
               ``accept``, ``reject``, ``{feedback: text}``, or ``{plan: YAML text}``
elicitation    server, message, schema (JSON Schema of an object): ``{action: accept, content:
               {...}}``, ``{action: decline}`` or ``{action: cancel}``
in_doubt       server, tool, arguments: the run was killed in this call. ``again``, ``failed``, or
               ``{outputs: {...}}`` (the call was made and returned these)
job_unknown    job, scheduler, reason, ``folder``: nothing shows how a batch job ended. ``wait``,
               ``success``, ``failure``, or ``again`` (submit the job once more)
interrupt      value (what a LangGraph agent, or the code of a tool, asked by its own interrupt),
               agent, server and tool (whose code it is), schema (JSON Schema of the answer, or
               null): the answer in the form that the code expects. For a request of
               LangChain's human-in-the-loop form, ``{decisions: [{type: approve}, …]}``
failure        error, log (of its batch job, if it had one): ``retry``, ``skip`` or ``quit``;
               asked only if a user is at the terminal
=============  ===================================================================================

The form of LangChain's human-in-the-loop middleware is read, too: ``{"decisions": [{"type":
"approve"}]}``, ``edit`` with ``edited_action``, ``reject`` with a ``message``; and ``respond`` with
a ``message`` for a `question`.

A run can also wait for two kinds of mappings that are not questions, since they need no answer:

- ``job``: a batch job in progress, with the fields of the event `job_state`.
- ``timer``: a time. Its fields are reason (as text), until (in ISO 8601) and `due`.

A timer has the field ``due``: ``{began, seconds, until}``, the moment from which the time is
counted, how long it takes, and its end in Unix time. If a call is made again then, `due` also has
``last``: the Unix time at which it is made for the last time, or null. A question that need not
wait for its answer longer has ``due``, too. Once the time has come, ``fractale resume --ready``
resumes the run, and the step that asked runs again.

Each mapping also has `step`, the path of the step that asks, and `id` once it waits. `kinds` has
one class per kind, which makes such questions and reads the answers to them. `forms` reads the
fields of a server's question. `answers` stores answers given beforehand, and finds the question
that an answer belongs to.
"""

from fractale.questions.answers import Answers, Checked, identity, read_reply, reply
from fractale.questions.kinds import (
    MISSING,
    Approval,
    ElicitationQuestion,
    InDoubt,
    JobUnknown,
    OfGraph,
    Question,
    Review,
    ToolChanged,
    asks_secret,
    calls_in,
    default_answer,
    due,
    expected,
    is_answer,
    is_due,
    is_job,
    is_question,
    is_timer,
    job,
    job_held,
    needs_no_answer,
    read_answer,
    read_for_code,
    secrets_of_answer,
    timer,
    timer_held,
    tool_of,
    without_secrets,
)

question = Question.ask
approval = Approval.ask
tool_changed = ToolChanged.ask
review = Review.ask
elicitation = ElicitationQuestion.ask
in_doubt = InDoubt.ask
job_unknown = JobUnknown.ask
interrupt = OfGraph.ask

__all__ = [
    "MISSING",
    "Answers",
    "Checked",
    "approval",
    "asks_secret",
    "calls_in",
    "default_answer",
    "due",
    "elicitation",
    "expected",
    "identity",
    "in_doubt",
    "interrupt",
    "is_answer",
    "is_due",
    "is_job",
    "is_question",
    "is_timer",
    "job",
    "job_held",
    "job_unknown",
    "needs_no_answer",
    "question",
    "read_answer",
    "read_for_code",
    "read_reply",
    "reply",
    "review",
    "secrets_of_answer",
    "timer",
    "timer_held",
    "tool_changed",
    "tool_of",
    "without_secrets",
]
