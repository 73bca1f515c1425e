"""Validates an RO-Crate against a profile, without a network: ``check_crate.py CRATE CONTEXT``.

It is run by a Python that has `roc-validator`, whose requirements do not go together with
fractale's: ``python -m venv .venv-crate && .venv-crate/bin/pip install roc-validator``. CONTEXT is
the JSON-LD context that the package `rocrate` carries. What breaks a MUST is printed, one a line.
"""

from __future__ import annotations

import io
import json
import sys
from email.message import Message
from pathlib import Path
from typing import Any
from urllib.response import addinfourl

import rdflib.parser
from rocrate_validator.models import Severity
from rocrate_validator.services import ValidationSettings, validate

WORK = "https://bioschemas.org/ComputationalWorkflow"
IN_1_1 = {
    "ComputationalWorkflow": WORK,
    "FormalParameter": "https://bioschemas.org/FormalParameter",
    "input": f"{WORK}#input",
    "output": f"{WORK}#output",
}
"""Terms whose addresses later versions of RO-Crate changed."""
NEEDS_NETWORK = ["ro-crate-1.1_3.1", "ro-crate-1.1_3.2"]
"""Whether the contexts are there to be fetched."""


def main(crate: str, context: str) -> None:
    """Print every requirement that is not met."""
    terms: dict[str, Any] = json.loads(Path(context).read_text(encoding="utf-8"))["@context"]
    texts = {
        "https://w3id.org/ro/crate/1.1/context": {**terms, **IN_1_1},
        # It adds terms that fractale's crates do not use.
        "https://w3id.org/ro/terms/workflow-run/context": {},
    }

    def opened(request: Any) -> addinfourl:
        headers = Message()
        headers["Content-Type"] = "application/ld+json"
        data = json.dumps({"@context": texts[request.full_url]}).encode()
        return addinfourl(io.BytesIO(data), headers, request.full_url, 200)

    rdflib.parser._urlopen = opened
    settings = ValidationSettings(
        rocrate_uri=crate,
        profile_identifier="provenance-run-crate-0.5",
        requirement_severity=Severity.REQUIRED,
        skip_checks=NEEDS_NETWORK,
    )
    for issue in validate(settings).get_issues():
        print(issue.check.identifier, issue.message, issue.violatingEntity)
    print("checked")


if __name__ == "__main__":
    main(*sys.argv[1:])
