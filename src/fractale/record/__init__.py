"""What happened in a run, read from its folder without an engine: history, diff, export, prune."""
