"""The programs and resources of this machine and site, as a tool for models and plans."""

from __future__ import annotations

from typing import Any


async def discover_site(sections: list[str] | None = None, refresh: bool = False) -> dict[str, Any]:
    """Report the programs and resources of this machine and site; changes nothing.

    Schedulers with their queues, limits and nodes; cores, memory, GPUs; environment modules,
    Spack, MPI, Python; containers, Kubernetes; directories with their file systems and free
    space. A thing with the state `works` has answered; if the state is `broken`, see `problem`.

    Args:
        sections: Which of machine, gpus, schedulers, software, containers, kubernetes,
            file_systems; by default all.
        refresh: Examine the site again, instead of using findings of the last hour.

    Returns:
        A list of findings for each section; `absent` names the things that were not found;
        `age_seconds` is the age of the findings.

    Raises:
        ValueError: The section is unknown.
    """
    import time

    from fractale.settings import load_settings
    from fractale.site.discover import PROBES, look

    unknown = [name for name in sections or () if name not in PROBES]
    if unknown:
        raise ValueError(f"unknown section `{unknown[0]}`; choose from {', '.join(PROBES)}")
    site = await look(load_settings(untrusted="narrow"), refresh=refresh)
    wanted = {name: site.sections.get(name, ()) for name in sections or PROBES}
    there = {
        name: [each.as_dict() for each in findings if each.state != "absent"]
        for name, findings in wanted.items()
    }
    absent = [each.name for each in sum(wanted.values(), ()) if each.state == "absent"]
    age = round(max(0.0, time.time() - site.looked), 1)
    return {"host": site.host, "age_seconds": age, **there, "absent": absent}
