"""A question in words, as ``fractale prompt`` asks it."""

from fractale.studio import prompt_graph

prompt = prompt_graph()
