"""A plan with a secret input under OpenTelemetry: ``python otel_child.py DIR`` prints spans."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

from openinference.instrumentation.langchain import LangChainInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from fractale.settings import Settings

sys.path.append(str(Path(__file__).parents[1] / "graph"))


def main(directory: str) -> None:
    from test_traces import run

    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    LangChainInstrumentor().instrument(tracer_provider=provider)
    settings = Settings(state_dir=Path(directory) / "state")
    for way in ("arun", "plan_graph"):
        assert asyncio.run(run(way, settings, [])) == ("success", None)
    print(json.dumps([json.loads(span.to_json()) for span in exporter.get_finished_spans()]))


if __name__ == "__main__":
    main(sys.argv[1])
