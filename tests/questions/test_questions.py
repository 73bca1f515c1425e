"""What a run asks, what people may answer, and answers given beforehand."""

from __future__ import annotations

import json
import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fractale.cli.options import read_answers, read_answers_file
from fractale.errors import AnswerError
from fractale.plan.build import parse_plan
from fractale.plan.dump import dump_data
from fractale.questions import (
    MISSING,
    Answers,
    approval,
    default_answer,
    elicitation,
    in_doubt,
    interrupt,
    question,
    read_answer,
    review,
)
from fractale.questions.kinds import example, expected, labels
from fractale.render.questions import field_lines
from fractale.runs.preflight import check_answers
from fractale.runs.result import RunResult, next_commands

JOKE = question("joke", "About what?", ["supercomputers", "penguins"], default="penguins")
CLOSED = question("joke", "About what?", ["supercomputers", "penguins"], free=False)
FREE = question("name", "Which name?")
SIZES = question("size", "How many nodes?", ["2", "4", "8"], free=False)
CALL = approval("submit", "submit_job", {"nodes": 2}, "it may change something")
DRAFT = review("plan", "name: p\n", None, 1)
FORM = {
    "type": "object",
    "properties": {
        "nodes": {"type": "integer", "minimum": 1, "maximum": 8},
        "queue": {"type": "string", "enum": ["debug", "long"], "default": "debug"},
        "exclusive": {"type": "boolean"},
    },
    "required": ["nodes"],
}
ASKED = elicitation("submit", "hpc", "How big?", FORM)
ONE = elicitation(
    "submit",
    "hpc",
    "Sure?",
    {"type": "object", "properties": {"sure": {"type": "boolean"}}, "required": ["sure"]},
)
NOTHING = elicitation("submit", "hpc", "Go on?", {"type": "object", "properties": {}})
LOST = in_doubt("submit", "submit_job", {"nodes": 2})
FAILED = {"kind": "failure", "step": "a", "error": "no"}
OWN = interrupt("buy", "clerk", {"question": "Which color?"})
ACTIONS = [{"name": "order", "args": {"what": what}} for what in ("tea", "milk")]
REVIEWED = interrupt("buy", "clerk", {"action_requests": ACTIONS[:1], "review_configs": []})
TWO = interrupt(
    "buy",
    "clerk",
    {
        "action_requests": ACTIONS,
        "review_configs": [{"action_name": "order", "allowed_decisions": ["approve", "edit"]}],
    },
)
STOPPED = interrupt("buy", "clerk", {"breakpoint": "clerk"})
TYPED = interrupt("buy", "clerk", "How many?", {"type": "integer"})
OF_GRAPHS = [OWN, REVIEWED, TWO, STOPPED, TYPED]
ALL = [JOKE, CLOSED, FREE, SIZES, CALL, DRAFT, ASKED, ONE, NOTHING, LOST, FAILED, *OF_GRAPHS]


class TestQuestion:
    @pytest.mark.parametrize(
        ("asked", "raw", "answer"),
        [
            (JOKE, "1", "supercomputers"),
            (JOKE, 2, "penguins"),
            (JOKE, " Penguins ", "penguins"),
            (JOKE, "", "penguins"),
            (JOKE, None, "penguins"),
            (JOKE, "cats and dogs", "cats and dogs"),
            (JOKE, '"3"', "3"),
            (FREE, "3", "3"),
            (FREE, 2.5, "2.5"),
            (FREE, True, "yes"),
            (SIZES, "2", "2"),
            (SIZES, "b", "4"),
            (SIZES, 8, "8"),
            (question("s", "Sure?", ["Yes", "No"]), True, "Yes"),
            (question("s", "Sure?", ["Yes", "No"]), False, "No"),
        ],
    )
    def test_a_choice_is_taken_by_number_or_text_else_any_text(self, asked, raw, answer):
        assert read_answer(asked, raw) == answer

    @pytest.mark.parametrize(
        ("asked", "raw"),
        [
            (JOKE, "3"),
            (JOKE, "0"),
            (JOKE, ["penguins"]),
            (JOKE, {"a": 1}),
            (CLOSED, "cats"),
            (CLOSED, ""),
            (CLOSED, '"cats"'),
            (SIZES, "3"),
            (FREE, "  "),
        ],
    )
    def test_what_is_no_answer_is_refused_with_what_would_be_one(self, asked, raw):
        with pytest.raises(AnswerError, match=asked["step"]) as caught:
            read_answer(asked, raw)
        assert caught.value.hint == f"answer with: {expected(asked)}"
        assert caught.value.exit_code == 2

    def test_choices_that_are_numbers_get_letters_so_that_none_is_meant_by_mistake(self):
        assert labels(JOKE) == ["1", "2", "3"]
        assert labels(SIZES) == ["a", "b", "c"]
        many = question("s", "?", [str(n) for n in range(40)], free=False)
        assert read_answer(many, "7") == "7"
        assert read_answer(many, "#8") == "7"

    @pytest.mark.parametrize(
        ("choices", "given_default", "free", "default"),
        [
            (["Red", "Blue"], "blue", False, "Blue"),
            (["Red", "Blue"], "green", False, None),
            (["Red", "Blue"], "green", True, "green"),
            ([], 4, False, "4"),
            (["Red"], "", True, None),
        ],
    )
    def test_a_default_is_one_of_the_answers(self, choices, given_default, free, default):
        asked = question("s", "?", choices, given_default, free=free)
        assert asked["default"] == default
        assert default_answer(asked) == (MISSING if default is None else default)

    def test_choices_are_text_and_each_is_there_once(self):
        asked = question("s", "?", [1, "1", " ", "two"], free=False)
        assert asked["choices"] == ["1", "two"]
        assert question("s", "?", [], free=False)["free"], "without choices any text is one"


@pytest.mark.parametrize(
    ("raw", "answer"),
    [
        ("y", True),
        ("Yes", True),
        (True, True),
        ("n", False),
        (False, False),
        ("a", "always"),
        ("always", "always"),
        ({"arguments": {"nodes": 1}}, {"arguments": {"nodes": 1}}),
        ('{"arguments": {"nodes": 1}}', {"arguments": {"nodes": 1}}),
        ("{arguments: {nodes: 1}}", {"arguments": {"nodes": 1}}),
    ],
)
def test_an_approval_is_agreed_to_once_or_always_or_with_other_arguments(raw, answer):
    assert read_answer(CALL, raw) == answer


@pytest.mark.parametrize(
    "raw", ["", "maybe", 1, None, [], {}, {"arguments": 3}, {"arguments": {}, "x": 1}, "{bad"]
)
def test_an_approval_is_never_agreed_to_by_something_else(raw):
    with pytest.raises(AnswerError):
        read_answer(CALL, raw)


@pytest.mark.parametrize(
    ("raw", "answer"),
    [
        ("accept", "accept"),
        (True, "accept"),
        ("r", "reject"),
        ("no", "reject"),
        ("use two nodes", {"feedback": "use two nodes"}),
        ({"feedback": "use two nodes"}, {"feedback": "use two nodes"}),
        ({"plan": "name: q\n"}, {"plan": "name: q\n"}),
    ],
)
def test_a_review_accepts_rejects_or_says_what_should_change(raw, answer):
    assert read_answer(DRAFT, raw) == answer


@pytest.mark.parametrize("raw", ["", "f", None, 3, {}, {"plan": ""}, {"feedback": 1}, {"x": "y"}])
def test_a_review_takes_nothing_else(raw):
    with pytest.raises(AnswerError):
        read_answer(DRAFT, raw)


class TestElicitation:
    @pytest.mark.parametrize(
        ("asked", "raw", "content"),
        [
            (ASKED, {"nodes": 2}, {"nodes": 2, "queue": "debug"}),
            (ASKED, '{"nodes": 2, "queue": "long"}', {"nodes": 2, "queue": "long"}),
            (ASKED, {"action": "accept", "content": {"nodes": 2}}, {"nodes": 2, "queue": "debug"}),
            (ONE, "yes", {"sure": True}),
            (ONE, "no", {"sure": False}),
            (NOTHING, "yes", {}),
        ],
    )
    def test_it_is_answered_with_content_that_fits_the_schema(self, asked, raw, content):
        assert read_answer(asked, raw) == {"action": "accept", "content": content}

    @pytest.mark.parametrize(
        ("asked", "raw", "action"),
        [
            (ASKED, "decline", "decline"),
            (ASKED, "Cancel", "cancel"),
            (ASKED, {"action": "decline"}, "decline"),
            (NOTHING, "no", "decline"),
        ],
    )
    def test_it_can_be_declined(self, asked, raw, action):
        assert read_answer(asked, raw) == {"action": action}

    @pytest.mark.parametrize(
        ("raw", "why"),
        [
            ({"nodes": 9}, "nodes.*9 is greater"),
            ({"nodes": "two"}, "nodes.*integer"),
            ({"queue": "long"}, "'nodes' is a required"),
            ({"nodes": 1, "queue": "x"}, "queue"),
            ("yes", "not a valid answer"),
            ("4", "not a valid answer"),
            ({"action": "perhaps"}, "not a valid answer"),
        ],
    )
    def test_content_that_does_not_fit_is_refused_with_the_reason(self, raw, why):
        with pytest.raises(AnswerError, match=why):
            read_answer(ASKED, raw)

    def test_an_empty_mapping_given_beforehand_takes_the_defaults(self):
        easy = elicitation("s", "hpc", "?", {**FORM, "required": ["queue"]})
        taken = {"action": "accept", "content": {"queue": "debug"}}
        assert Answers({"s": {}}).find(easy) == taken
        assert Answers({"s": {"?": {}}}).find(easy) == taken
        with pytest.raises(AnswerError, match="'nodes' is a required"):
            Answers({ASKED["step"]: {}}).find(ASKED)

    @pytest.mark.parametrize(
        "items",
        [{"enum": ["debug", "batch"]}, {"anyOf": [{"const": "debug"}, {"const": "batch"}]}],
    )
    def test_the_choices_of_a_list_are_shown(self, items):
        field = {"type": "array", "items": items, "default": ["batch"]}
        lines = field_lines("queues", {"type": "object", "properties": {"queues": field}})
        assert lines == [
            "queues (any of these, separated by commas, optional)",
            " 1  debug",
            " 2  batch   (default)",
        ]

    def test_yes_takes_the_defaults_only_where_they_are_all_that_is_needed(self):
        assert default_answer(ASKED) is MISSING
        assert default_answer(NOTHING) == {"action": "accept", "content": {}}
        easy = elicitation("s", "hpc", "?", {**FORM, "required": ["queue"]})
        assert default_answer(easy) == {"action": "accept", "content": {"queue": "debug"}}

    @pytest.mark.parametrize(
        ("field", "text", "value"),
        [
            ({"type": "number"}, "2.5", 2.5),
            ({"type": "number"}, "2", 2),
            ({"type": "string"}, "2", "2"),
            ({"type": "array", "items": {"type": "integer"}}, "1, 2", [1, 2]),
            ({"type": "array"}, '["a"]', ["a"]),
            ({"type": "array", "items": {"enum": ["a", "b", "c"]}}, "1, c", ["a", "c"]),
            (
                {"type": "array", "items": {"anyOf": [{"const": "a", "title": "Alpha"}]}},
                "alpha",
                ["a"],
            ),
            ({"type": "string", "format": "email"}, "a@b.example", "a@b.example"),
            ({"type": "string", "format": "uri"}, "https://x.example/a", "https://x.example/a"),
            ({"type": "string", "format": "date"}, "2026-11-30", "2026-11-30"),
            (
                {"type": "string", "format": "date-time"},
                "2026-11-30T08:00:00Z",
                "2026-11-30T08:00:00Z",
            ),
            ({"type": "string", "format": "unheard-of"}, "x", "x"),
            ({"enum": [1, 2], "enumNames": ["one", "two"]}, "two", 2),
            ({"oneOf": [{"const": "a", "title": "Alpha"}]}, "alpha", "a"),
            ({"oneOf": [{"const": "a", "title": "Alpha"}]}, "1", "a"),
            ({}, "words", "words"),
            ({}, "[1]", [1]),
        ],
    )
    def test_text_becomes_a_value_of_the_fields_type(self, field, text, value):
        asked = elicitation("s", "hpc", "?", {"type": "object", "properties": {"x": field}})
        assert read_answer(asked, text)["content"] == {"x": value}

    @pytest.mark.parametrize(
        ("field", "text"),
        [
            ({"type": "integer"}, "2.5"),
            ({"type": "number"}, "nan"),
            ({"type": "number"}, "two"),
            ({"type": "boolean"}, "perhaps"),
            ({"enum": ["a"]}, "b"),
            ({"type": "array", "items": {"enum": ["a"]}}, "a, b"),
            ({"type": "string", "format": "email"}, "nope"),
            ({"type": "string", "format": "uri"}, "no scheme"),
            ({"type": "string", "format": "date"}, "30.11."),
            ({"type": "string", "format": "date-time"}, "2026-11-30 08:00"),
            ({"type": "array"}, "[1"),
            ({"type": "array"}, "[1]: 2"),
        ],
    )
    def test_text_of_another_type_is_refused(self, field, text):
        asked = elicitation("s", "hpc", "?", {"type": "object", "properties": {"x": field}})
        with pytest.raises(AnswerError):
            read_answer(asked, text)

    @pytest.mark.parametrize(
        "schema",
        [
            {"type": "object", "properties": {"x": {"type": "wrong"}}},
            {"type": "object", "properties": {"x": {"$ref": "http://127.0.0.1:9/schema"}}},
            {"properties": ["x"], "required": 3},
        ],
    )
    def test_a_servers_wrong_schema_is_no_crash_and_fetches_nothing(self, schema):
        asked = elicitation("s", "hpc", "?", schema)
        with pytest.raises(AnswerError):
            read_answer(asked, {"action": "accept", "content": {"x": "y"}})
        assert read_answer(asked, "decline") == {"action": "decline"}

    def test_a_servers_pattern_is_left_to_the_server(self):
        # It could be one that takes forever, or that is none.
        for pattern in ("(", "(a+)+$"):
            schema = {"type": "object", "properties": {"x": {"pattern": pattern}}}
            answer = {"action": "accept", "content": {"x": "a" * 60 + "!"}}
            assert read_answer(elicitation("s", "hpc", "?", schema), answer) == answer


def test_a_call_in_doubt_is_made_again_or_failed_or_was_done():
    assert read_answer(LOST, "again") == "again"
    assert read_answer(LOST, "failed") == "failed"
    assert read_answer(LOST, "{outputs: {id: 3}}") == {"outputs": {"id": 3}}
    for raw in ("yes", True, "", {"outputs": 3}):
        with pytest.raises(AnswerError):
            read_answer(LOST, raw)
    assert default_answer(LOST) is MISSING, "nobody who did not look can say"


YES_TWICE = {"decisions": [{"type": "approve"}, {"type": "approve"}]}


@pytest.mark.parametrize(
    ("asked", "raw", "answer"),
    [
        (OWN, "green", "green"),
        (OWN, " green ", "green"),
        (OWN, '{"color": "green"}', {"color": "green"}),
        (OWN, {"color": "green"}, {"color": "green"}),
        (OWN, "true", True),
        (OWN, '"true"', "true"),
        (TYPED, "3", 3),
        (REVIEWED, "yes", {"decisions": [{"type": "approve"}]}),
        (REVIEWED, False, {"decisions": [{"type": "reject"}]}),
        (REVIEWED, {"type": "approve"}, {"decisions": [{"type": "approve"}]}),
        (
            REVIEWED,
            {"arguments": {"what": "milk"}},
            {
                "decisions": [
                    {"type": "edit", "edited_action": {"name": "order", "args": {"what": "milk"}}}
                ]
            },
        ),
        (TWO, "yes", YES_TWICE),
        (TWO, YES_TWICE["decisions"], YES_TWICE),
        (STOPPED, "continue", "continue"),
    ],
)
def test_a_graph_gets_the_answer_in_its_own_form(asked, raw, answer):
    assert read_answer(asked, raw) == answer
    assert expected(asked)


@pytest.mark.parametrize(
    ("asked", "raw"),
    [
        (OWN, ""),
        (OWN, None),
        (TYPED, "many"),
        (REVIEWED, "perhaps"),
        (REVIEWED, {"decisions": []}),
        (TWO, "no"),
        (TWO, {"decisions": [{"type": "approve"}]}),
        (TWO, {"type": "approve"}),
        (STOPPED, "no"),
    ],
)
def test_a_graph_gets_no_other_answer(asked, raw):
    with pytest.raises(AnswerError):
        read_answer(asked, raw)


def test_yes_agrees_to_calls_and_plans():
    assert default_answer(TWO) == YES_TWICE
    assert default_answer(OWN) is MISSING
    assert default_answer(CALL) is True
    assert default_answer(DRAFT) == "accept"


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(asked=st.sampled_from(ALL), raw=anything)
def test_whatever_is_answered_is_an_answer_or_is_refused(asked, raw):
    try:
        answer = read_answer(asked, raw)
    except AnswerError:
        return
    assert answer is not None
    assert read_answer(asked, answer) == answer or asked["kind"] in ("question", "interrupt")
    json.dumps(answer)


@pytest.mark.parametrize(
    ("asked", "raw"),
    [
        (FREE, "\udcff"),
        (CALL, '{"arguments": {"n": NaN}}'),
        (CALL, '{"arguments": {"n": 1e999}}'),
        (CALL, '{"arguments": {"n": [100000000000000000000]}}'),
        (CALL, '{"arguments": {"n": "\\ud800"}}'),
        (CALL, {"arguments": {"n": object()}}),
        (LOST, {"outputs": {1: 2}}),
    ],
)
def test_what_a_record_cannot_hold_is_refused(asked, raw):
    with pytest.raises(AnswerError, match="record"):
        read_answer(asked, raw)


@given(data=st.dictionaries(st.text(), anything))
def test_arguments_that_are_opened_in_an_editor_and_left_alone_are_the_same(data):
    from fractale.questions.parsing import data_of

    try:
        again = data_of(dump_data(data))
    except AnswerError:
        return  # such as lone surrogates and integers beyond 64 bits: refused, not changed
    assert again == data


class TestAnswers:
    @pytest.mark.parametrize(
        ("key", "step"),
        [
            ("submit", "submit"),
            ("outer/submit", "outer/submit"),
            ("submit", "outer/submit"),
            ("submit", "outer/submit[3]"),
            ("submit[3]", "outer/submit[3]"),
            ("outer/submit[3]", "outer/submit[3]"),
            ("a/b", "a[1]/b"),
            ("*", "anything"),
        ],
    )
    def test_a_step_is_named_by_its_path_its_last_name_or_its_item(self, key, step):
        assert Answers({key: "yes"}).find(approval(step, "t", {}, "")) is True

    def test_the_most_exact_name_counts(self):
        answers = Answers({"*": "no", "submit": "no", "submit[1]": "yes"})
        assert answers.find(approval("submit[1]", "t", {}, "")) is True
        assert answers.find(approval("submit[0]", "t", {}, "")) is False
        assert Answers({"submit": "no", "abc": "yes"}).find({**CALL, "id": "abc"}) is True

    @pytest.mark.parametrize("step", ["subm", "outer", "submit[2]"])
    def test_other_steps_have_no_answer(self, step):
        answers = Answers({"submit[1]": "yes", "outer/submit": "yes"})
        assert answers.find(approval(step, "t", {}, "")) is MISSING

    def test_several_questions_of_a_step_are_told_apart_by_their_text(self):
        answers = Answers({"joke": {"About what?": 1, "How  long?": "short", "submit_job": "yes"}})
        assert answers.find(JOKE) == "supercomputers"
        assert answers.find(question("joke", "How long?")) == "short"
        assert answers.find({**CALL, "step": "joke"}) is True
        assert answers.find(question("joke", "How loud?")) is MISSING

    @pytest.mark.parametrize(
        ("asked", "value"),
        [
            (CALL, {"arguments": {"nodes": 1}}),
            (DRAFT, {"feedback": "shorter"}),
            (ASKED, {"nodes": 1}),
            (ASKED, {"action": "decline"}),
            (LOST, {"outputs": {}}),
        ],
    )
    def test_a_mapping_can_be_the_answer_itself(self, asked, value):
        assert Answers({"*": value}).find(asked) == read_answer(asked, value)

    def test_a_wrong_answer_to_a_step_is_an_error_and_one_for_any_step_does_not_count(self):
        with pytest.raises(AnswerError):
            Answers({"submit": "perhaps"}).find(CALL)
        assert Answers({"*": "perhaps"}).find(CALL) is MISSING

    def test_answers_to_what_nobody_asks_are_refused(self):
        answers = Answers({"submit": "yes"})
        answers.require([CALL, JOKE])
        with pytest.raises(AnswerError, match="no question waits") as caught:
            answers.require([JOKE])
        assert caught.value.hint == "waiting: joke"
        both = [approval("a/submit", "t", {}, ""), approval("b/submit", "t", {}, "")]
        with pytest.raises(AnswerError, match="a/submit, b/submit"):
            answers.require(both)
        items = [approval("submit[0]", "t", {}, ""), approval("submit[1]", "t", {}, "")]
        answers.require(items)


class TestGivenOnTheCommandLine:
    def test_pairs_are_split_at_the_first_equals_sign(self):
        assert read_answers(("a=x=y", "b = z")) == {"a": "x=y", "b": " z"}

    @pytest.mark.parametrize("pairs", [("yes",), ("=yes",), ("a=1", "a=2")])
    def test_pairs_that_are_none_are_refused(self, pairs):
        with pytest.raises(AnswerError):
            read_answers(pairs)

    def test_a_file_keeps_yes_and_no_as_they_are_written(self, tmp_path):
        file = tmp_path / "answers.yaml"
        file.write_text("submit: yes\njoke: {About what?: 2}\n'*': no\n")
        assert read_answers_file(file) == {"submit": "yes", "joke": {"About what?": 2}, "*": "no"}
        assert read_answers_file(None) == {}

    @pytest.mark.parametrize("text", ["- a\n", "a: 1\na: 2\n", "a: [\n", "x: !!python/name:os.x\n"])
    def test_a_file_that_is_none_is_refused_with_its_place(self, tmp_path, text):
        file = tmp_path / "answers.yaml"
        file.write_text(text)
        with pytest.raises(AnswerError) as caught:
            read_answers_file(file)
        assert caught.value.position is not None

    def test_a_missing_file_is_refused(self, tmp_path):
        with pytest.raises(AnswerError):
            read_answers_file(tmp_path / "none.yaml")

    PLAN = """
name: p
steps:
  - {name: submit, tool: t}
  - {name: both, parallel: [{name: left, tool: t}, {name: right, tool: t}]}
"""

    def test_steps_that_the_plan_does_not_have_are_found_before_it_runs(self):
        plan = parse_plan(self.PLAN)
        check_answers({"submit": 1, "left": 1, "both/right": 1, "right[2]": 1, "*": 1}, plan)
        check_answers({"0123456789abcdef0123456789abcdef": 1}, plan)
        with pytest.raises(AnswerError) as caught:
            check_answers({"submti": 1}, plan)
        assert caught.value.hint == "did you mean `submit`?"
        with pytest.raises(AnswerError) as caught:
            check_answers({"zzz": 1}, plan)
        assert "submit, both, both/left" in str(caught.value.hint)

    def test_a_last_name_that_two_steps_have_is_refused(self, tmp_path):
        inner = "name: i\nsteps: [{name: submit, tool: t}]\n"
        (tmp_path / "i.yaml").write_text(inner)
        (tmp_path / "p.yaml").write_text(
            "name: p\nsteps: [{name: a, plan: i.yaml}, {name: b, plan: i.yaml}]\n"
        )
        from fractale.plan.build import load_plan

        plan = load_plan(tmp_path / "p.yaml")
        check_answers({"a/submit": 1}, plan)
        with pytest.raises(AnswerError, match="a/submit, b/submit"):
            check_answers({"submit": 1}, plan)

    def test_where_steps_are_drafted_any_name_can_come(self):
        plan = parse_plan("name: p\nsteps: [{name: a, type: plan, instruction: go}]\n")
        check_answers({"drafted": 1}, plan)


class TestTheCommandThatAnswers:
    def commands(self, tmp_path, *waiting):
        result = RunResult(run="k7f3", status="waiting", record=tmp_path, waiting=list(waiting))
        return next_commands(result)

    @pytest.mark.parametrize("asked", ALL[:-1])
    def test_every_kind_has_an_example(self, asked):
        assert example(asked)

    @pytest.mark.parametrize("asked", [JOKE, CLOSED, SIZES, CALL, DRAFT, NOTHING])
    def test_the_example_is_an_answer(self, asked):
        assert read_answer(asked, example(asked)) is not MISSING

    def test_it_names_each_step_and_is_quoted_for_a_shell(self, tmp_path):
        here = "fractale resume k7f3"
        assert self.commands(tmp_path, CALL) == ["fractale answer k7f3 submit=yes", here]
        assert self.commands(tmp_path, JOKE, {**CALL, "step": "s[0]"}) == [
            "fractale answer k7f3 joke=2 's[0]=yes'",
            here,
        ]
        assert self.commands(tmp_path, ASKED) == [
            "fractale answer k7f3 "
            '\'submit={"nodes": "NODES", "queue": "debug", "exclusive": "EXCLUSIVE"}\'',
            here,
        ]

    def test_a_choice_with_a_text_shows_where_the_text_goes(self, tmp_path):
        shell = [shlex.split(line)[-1] for line in self.commands(tmp_path, WORDS)[:-1]]
        assert self.commands(tmp_path, GATE) == [
            "fractale answer k7f3 gate=publish",
            "fractale answer k7f3 'gate={answer: revise, text: TEXT}'",
            "fractale resume k7f3",
        ]
        read = [read_answer(WORDS, each.removeprefix("gate=")) for each in shell]
        assert read == [{"answer": word, "text": "TEXT"} for word in WORDS["choices"]]

    def test_two_questions_of_one_step_are_answered_by_their_ids(self, tmp_path):
        two = [{**FREE, "id": "1" * 32}, {**FREE, "id": "2" * 32}]
        answer, _ = self.commands(tmp_path, *two)
        assert answer == "fractale answer k7f3 11111111=TEXT 22222222=TEXT"

    def test_many_are_answered_by_a_file(self, tmp_path):
        many = [{**CALL, "step": f"s[{n}]"} for n in range(9)]
        assert self.commands(tmp_path, *many) == [
            "fractale answer k7f3",
            "fractale resume k7f3 --answers FILE",
        ]


GATE = question(
    "gate", "Publish?", ["publish", "revise"], free=False, follow_up={"revise": "What?"}
)
ODD = ["it's, so: {more}", "no", "3", '"so"', "# x"]
WORDS = question("gate", "?", ODD, free=False, follow_up=dict.fromkeys(ODD, "What?"))
SIZE = question("size", "How big?", form=FORM, default={"nodes": 2})


@pytest.mark.parametrize(
    ("asked", "raw", "answer"),
    [
        (GATE, "Revise", "revise"),
        (GATE, "2", "revise"),
        (
            GATE,
            "{answer: revise, text: 'shorter: much'}",
            {"answer": "revise", "text": "shorter: much"},
        ),
        (GATE, {"answer": "2", "text": "x"}, {"answer": "revise", "text": "x"}),
        (SIZE, "", {"nodes": 2, "queue": "debug"}),
        (SIZE, "{nodes: 3, exclusive: true}", {"nodes": 3, "queue": "debug", "exclusive": True}),
    ],
)
def test_a_plan_s_question_takes_words_texts_and_fields(asked, raw, answer):
    assert read_answer(asked, raw) == answer
    assert Answers({asked["step"]: raw}).find(asked) == answer


@pytest.mark.parametrize(
    ("asked", "raw"),
    [
        (GATE, "{answer: publish, text: x}"),
        (GATE, "{answer: revise, other: x}"),
        (GATE, "[publish]"),
        (GATE, {"type": "reject"}),
        (SIZE, "3"),
        (SIZE, "{nodes: 9}"),
        (SIZE, "{nodes: 3, queue: other}"),
    ],
)
def test_what_is_none_is_refused_with_what_is_expected(asked, raw):
    with pytest.raises(AnswerError) as caught:
        read_answer(asked, raw)
    assert caught.value.hint == f"answer with: {expected(asked)}"


def test_a_default_that_a_model_gives_is_text():
    assert question("a", "?", ["x"], default={"x": 1}, free=False)["default"] is None
    assert question("a", "?", default=4)["default"] == "4"


def test_a_decision_in_the_form_of_langchain_answers_a_question():
    assert read_answer(GATE, {"type": "respond", "message": "publish"}) == "publish"
