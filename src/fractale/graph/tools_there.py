"""Whether the tools that a step lists are there, looked at before its model works.

A model without its tools answers in words, and words alone are no sign that work was done.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from glob import has_magic

from fractale.errors import ToolError
from fractale.graph.attempt import Attempt
from fractale.graph.bindings import resolve
from fractale.plan.kinds import EXTRA_TOOLS
from fractale.policy import allowed_by


async def check_tools(attempt: Attempt) -> None:
    """Warn of servers that are not there, and of patterns in `tools` that fit nothing.

    Raises:
        ToolError: A tool that the step names is not there, or nothing of all that it lists.
    """
    listed = attempt.step.tools
    if listed == ():
        return
    bindings = attempt.context.bindings
    own = (*EXTRA_TOOLS, *attempt.deps.agents.names())
    wanted = [glob for glob in listed or () if not any(fnmatchcase(name, glob) for name in own)]
    if listed and not wanted:
        return
    tools = await attempt.deps.toolbox.tools(bindings.exact(wanted) or None)
    for name in wanted:
        meant = [tool for tool in tools if allowed_by((name,), tool)]
        if len(meant) == 1 and not has_magic(name):
            await resolve(attempt.deps.toolbox, bindings, name)
    wanted = list(bindings.exact(wanted))
    missing = [glob for glob in wanted if not any(allowed_by((glob,), tool) for tool in tools)]
    named = [name for name in missing if not has_magic(name)]
    if named or (missing and len(missing) == len(listed or ())):
        # It says why it is not there.
        await resolve(attempt.deps.toolbox, bindings, (named or missing)[0])
        raise ToolError(f"no server has the step's tools: {', '.join(missing)}")
    if attempt.scope.get("index", 0) == 0:  # not again for each item of a foreach
        await _warn(attempt, wanted, missing)


async def _warn(attempt: Attempt, wanted: list[str], missing: list[str]) -> None:
    for server in await attempt.deps.toolbox.servers(wanted or None):
        if not server.connected:
            words = f"the tools of server `{server.name}` are not there: {server.error}"
            attempt.emit("warning", code="server-not-there", message=words)
    if missing:
        names = ", ".join(f"`{name}`" for name in missing)
        words = f"no server has what the step lists in `tools`: {names}"
        attempt.emit("warning", code="tool-not-there", message=words)
