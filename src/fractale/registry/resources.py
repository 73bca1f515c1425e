"""Local functions → resources, and templates of resources."""

from __future__ import annotations

import inspect
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final
from urllib.parse import parse_qs, unquote

from mcp import types
from pydantic import AnyUrl

from fractale.errors import ToolError
from fractale.registry.calls import guarded
from fractale.registry.fastmcp_uses import FastMCPMade, is_fastmcps, is_for_fastmcp
from fractale.registry.files import Entry
from fractale.registry.prompts import a_function
from fractale.registry.server import Contents, LocalResource, LocalTemplate
from fractale.registry.signature import Signature
from fractale.registry.values import resource_contents

_TEXT: Final = "text/plain"
_VARIABLE: Final = re.compile(r"\{([\w-]+)(\*?)\}")
_QUERY: Final = re.compile(r"\{\?([^}]+)\}")


def make_resource(entry: Entry, found: Any) -> LocalResource | LocalTemplate | FastMCPMade:
    """The resource behind an entry: a template of resources if its function takes arguments.

    Raises:
        TypeError: It is no function.
        ValueError: Its URI is none, or names other variables than the function's arguments.
    """
    if is_fastmcps(found) or (inspect.isroutine(found) and is_for_fastmcp(found)):
        from fractale.registry.fastmcp_mount import as_resource

        return as_resource(entry, found)
    function = a_function(found)
    name = entry.name or function.__name__
    parameters = list(inspect.signature(function).parameters)
    uri = entry.uri or uri_of(name, parameters)
    return _template(function, name, uri) if parameters else _resource(function, name, uri)


def uri_of(name: str, parameters: list[str]) -> str:
    """The URI of a resource that says none: ``resource://NAME/{argument}``."""
    return "/".join([f"resource://{name}", *(f"{{{each}}}" for each in parameters)])


def _resource(function: Callable[..., Any], name: str, uri: str) -> LocalResource:
    call = guarded(function, ToolError)

    async def read() -> Contents:
        return resource_contents(await call())

    about = inspect.getdoc(function)
    listing = types.Resource(uri=AnyUrl(uri), name=name, description=about, mimeType=_TEXT)
    return LocalResource(listing, read)


def _template(function: Callable[..., Any], name: str, uri: str) -> LocalTemplate:
    signature = Signature(function, "resources")
    _check_variables(uri, signature.parameters)

    variables_of = _Matcher(uri)

    async def read(variables: Mapping[str, str]) -> Contents:
        return resource_contents(await signature.call(variables))

    def matching(uri: str) -> Awaitable[Contents] | None:
        variables = variables_of(uri)
        return None if variables is None else read(variables)

    about = inspect.getdoc(function)
    listing = types.ResourceTemplate(uriTemplate=uri, name=name, description=about, mimeType=_TEXT)
    return LocalTemplate(listing, matching)


def _check_variables(uri: str, parameters: Mapping[str, inspect.Parameter]) -> None:
    """Check that a URI and a function have the same variables.

    Raises:
        ValueError: They don't; or one in the query has no default, which it needs.
    """
    in_path = {_argument(name) for name, _ in _VARIABLE.findall(uri)}
    in_query = _query_names(uri)
    required = {name for name, each in parameters.items() if each.default is each.empty}
    if unknown := (in_path | in_query.keys()) - parameters.keys():
        raise ValueError(f"the function takes no {_listed(unknown)}, which is in `{uri}`")
    if missing := required - in_path:
        raise ValueError(f"`{uri}` must have {_listed(missing)} in its path: it has no default")


def _listed(names: set[str]) -> str:
    return ", ".join(f"`{name}`" for name in sorted(names))


def _argument(name: str) -> str:
    return name.replace("-", "_")


def _query_names(uri: str) -> dict[str, str]:
    """The variables in the query ``{?a,b}``: argument → name."""
    found = _QUERY.search(uri)
    names = [name.strip() for name in found[1].split(",")] if found else []
    return {_argument(name): name for name in names}


class _Matcher:
    """Finds the variables of a template in a URI.

    ``{name}`` stands for a part without a slash, ``{name*}`` for any, ``{?a,b}`` for a query.

    Args:
        template: The template.

    Raises:
        ValueError: It has a variable twice, or one whose name begins with a digit.
    """

    def __init__(self, template: str) -> None:
        parts = _VARIABLE.split(_QUERY.sub("", template))
        pattern = [re.escape(part) for part in parts]
        names = [_argument(name) for name in parts[1::3]]
        for index, name in enumerate(names):
            anything = ".+" if parts[3 * index + 2] else "[^/]+"
            pattern[3 * index + 1] = f"(?P<{name}>{anything})"
            pattern[3 * index + 2] = ""
        try:
            self._pattern = re.compile("".join(pattern))
        except re.error as error:
            raise ValueError(f"`{template}` is no template: {error}") from error
        self._query = _query_names(template)

    def __call__(self, uri: str) -> dict[str, str] | None:
        """The variables by argument; None if the URI is none of the template's."""
        path, _, query = uri.partition("?")
        found = self._pattern.fullmatch(path)
        if found is None:
            return None
        given = parse_qs(query, keep_blank_values=True)
        asked = {name: given[key][0] for name, key in self._query.items() if key in given}
        return asked | {name: unquote(value) for name, value in found.groupdict().items()}
