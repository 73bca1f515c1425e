"""The runs of a state directory in a terminal, as they go: ``fractale top``."""
