"""What is on this machine, and what of it a plan needs.

- `discover` asks everything that it knows of, at once: `machine`, `slurm`, `schedulers`,
  `software`, `containers`, `folders` hold the probes, `programs` starts what they ask,
  `cache` keeps what was found,
- `doctor` holds that against what a plan, a registry or a server file needs: `checks_*` are its
  parts, `needs` knows which programs stand behind which tools (``needs.yaml``), `packages` which
  Python packages are there.

A probe reads only, is bounded in time, and never raises: it finds a thing working, broken (with
the reason), or absent.
"""

from fractale.site.discover import PROBES, discover
from fractale.site.model import Check, Finding, Site

__all__ = ["PROBES", "Check", "Finding", "Site", "discover"]
