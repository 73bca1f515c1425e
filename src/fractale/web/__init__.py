"""The runs of a state directory in a browser, as they go: ``fractale web``."""
