"""The built-in sub-agents: each a small module on LangChain's `create_agent`.

- `ask`: the generalist: works with the tools it is given until it can answer.
"""
