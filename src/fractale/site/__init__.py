"""Find the programs and resources of this machine, and check what a plan needs.

- `discover` asks every probe of `probes/` at once, and caches the findings. `programs` runs the
  programs that probes ask.
- `doctor` compares the findings with what a plan, a registry or a server file needs. Its checks are
  in `checks/`; each gets the same `examination`. `plan_uses` says what a plan names, calls and
  starts, `needs` which programs tools need (``needs.yaml``).
- `model`: findings, sites and the lines of the doctor's report.
"""

from fractale.findings import Finding
from fractale.site.discover import PROBES, discover
from fractale.site.model import Check, Site

__all__ = ["PROBES", "Check", "Finding", "Site", "discover"]
