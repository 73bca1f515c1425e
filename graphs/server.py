"""What ``langgraph.json`` names beside the graphs: the store of runs, and the server's gate."""

from pathlib import Path

from fractale.studio import make_app
from fractale.studio import open_saver as saver

__all__ = ["app", "saver"]

app = make_app(Path(__file__).resolve().parent.parent / "plans")
