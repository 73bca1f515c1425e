"""The seed of it all: a joke, with choices about its category."""

from __future__ import annotations

import json

import pytest

from fractale.testing import ModelServer, Reply
from scenarios import Reader, asked, by_turns, path_of

WORDS = ["Tell", "me", "a", "joke,", "and", "give", "me", "choices", "about", "the", "category."]
JOKE = "Why did the penguin cross the node? It was idle."
QUESTION = {
    "question": "Which category should the joke be about?",
    "choices": ["supercomputers", "penguins"],
    "default": "supercomputers",
}
DRAFT = {
    "name": "ask",
    "steps": [{"name": "tell", "agent": "ask", "instruction": "Tell a joke about penguins."}],
}


def test_the_prompt_asks_and_tells_at_once(tmp_path):
    """The agent asks for the category, and tells the joke itself: no plan is needed."""
    with ModelServer(by_turns(Reply(tool_calls=[("ask_person", QUESTION)]), JOKE)) as server:
        reader = Reader(tmp_path, server)
        waits = reader("prompt", *WORDS)
        assert waits.returncode == 4, waits.stderr
        assert "Which category should the joke be about?" in waits.stderr
        assert "penguins" in waits.stderr
        end = reader.end("resume", "-1", "--answer", "ask=penguins")
    assert end["outputs"] == {"answer": JOKE}, end
    assert "penguins" in asked(server.requests[1])


def test_a_plan_is_drafted_where_the_agent_hands_over(tmp_path):
    hands_over = Reply(tool_calls=[("plan_steps", {"known": "The person chose penguins."})])
    asks = Reply(tool_calls=[("ask_person", QUESTION)])
    with ModelServer(by_turns(asks, hands_over, Reply(data=DRAFT), JOKE)) as server:
        reader = Reader(tmp_path, server)
        reader("prompt", *WORDS)
        drafted = reader("resume", "-1", "--answer", "ask=penguins")
        assert drafted.returncode == 4, drafted.stderr
        assert "Tell a joke about penguins." in drafted.stderr
        end = reader.end("resume", "-1", "--answer", "plan=accept")
    assert end["status"] == "success", end
    assert JOKE in json.dumps(end["outputs"])
    assert "The person chose penguins." in asked(server.requests[3])


def test_the_agent_at_once(tmp_path):
    model = by_turns(Reply(tool_calls=[("ask_person", QUESTION)]), JOKE)
    with ModelServer(model) as server:
        words = ("--direct", "--answer", "ask=penguins", *WORDS)
        end = Reader(tmp_path, server).end("prompt", *words)
    assert end["outputs"] == {"answer": JOKE}, end


def test_the_plan_asks_and_tells(tmp_path):
    chosen = Reply(data={"category": "penguins"})
    model = by_turns(
        Reply(tool_calls=[("ask_person", QUESTION)]), chosen, Reply(data={"joke": JOKE})
    )
    with ModelServer(model) as server:
        words = ("run", "plans/joke.yaml", "--answer", "choose=penguins")
        events = Reader(tmp_path, server).events(*words)
    assert path_of(events) == ["choose:success", "tell:success"]
    assert events[-1]["outputs"] == {"joke": JOKE}
    assert "Tell one short joke about penguins." in asked(server.requests[2])


def test_the_plan_does_not_ask_what_it_was_told(tmp_path):
    with ModelServer([Reply(data={"joke": JOKE})]) as server:
        end = Reader(tmp_path, server).end("run", "plans/joke.yaml", "-i", "category=penguins")
    assert end["outputs"] == {"joke": JOKE}, end
    assert len(server.requests) == 1


@pytest.mark.real
def test_the_embedded_model_tells_one_without_a_key(tmp_path):
    pytest.importorskip("xllamacpp")
    words = ("run", "plans/joke.yaml", "--backend", "local", "-i", "category=penguins")
    end = Reader(tmp_path).end(*words)
    assert end["status"] == "success", end
    assert end["outputs"]["joke"]
