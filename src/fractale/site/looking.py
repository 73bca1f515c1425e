"""Looking at a machine, or taking what was found a while ago."""

from __future__ import annotations

from fractale.settings import Settings
from fractale.site.cache import MAX_AGE, read_cache, write_cache
from fractale.site.discover import discover, machine_of
from fractale.site.model import Site
from fractale.site.programs import TIMEOUT


async def look(
    settings: Settings,
    *,
    refresh: bool = False,
    max_age: float = MAX_AGE,
    timeout: float = TIMEOUT,  # noqa: ASYNC109 - of each program
) -> Site:
    """What is on this machine. Never raises.

    Args:
        refresh: Look again, whatever is known.
        max_age: Seconds for which what was found is taken again.
        timeout: Seconds that one program may take to answer.
    """
    place = machine_of(settings, timeout)
    if not refresh and (known := read_cache(place, max_age)) is not None:
        return known
    site = await discover(place, secrets=settings.secrets)
    write_cache(place, site)
    return site
