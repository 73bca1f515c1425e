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
from fractale.registry.files import RegistryEntry
from fractale.registry.prompts import a_function
from fractale.registry.server import Contents, LocalResource, LocalTemplate
from fractale.registry.signature import Signature
from fractale.registry.values import resource_contents

_TEXT: Final = "text/plain"
_VARIABLE: Final = re.compile(r"\{([\w-]+)(\*?)\}")
_QUERY: Final = re.compile(r"\{\?([^}]+)\}")


def make_resource(entry: RegistryEntry, found: Any) -> LocalResource | LocalTemplate | FastMCPMade:
    """Make the resource of an entry; a template if its function has parameters.

    Raises:
        TypeError: The object is not a function.
        ValueError: The URI is invalid, or its variables aren't the function's parameters.
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
    """The URI of a resource whose entry has none: ``resource://NAME/{argument}``."""
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
    """Check that the variables of a URI are the parameters of a function.

    Raises:
        ValueError: They aren't, or a parameter in the query has no default.
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

    ``{name}`` matches text without a slash, ``{name*}`` any text, ``{?a,b}`` a query.

    Raises:
        ValueError: The template has a variable twice, or one that begins with a digit.
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
            raise ValueError(f"`{template}` is not a valid template: {error}") from error
        self._query = _query_names(template)

    def __call__(self, uri: str) -> dict[str, str] | None:
        """The variables by parameter; None if the URI doesn't match."""
        path, _, query = uri.partition("?")
        found = self._pattern.fullmatch(path)
        if found is None:
            return None
        given = parse_qs(query, keep_blank_values=True)
        asked = {name: given[key][0] for name, key in self._query.items() if key in given}
        return asked | {name: unquote(value) for name, value in found.groupdict().items()}
