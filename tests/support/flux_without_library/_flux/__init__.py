"""Stands in for Flux's C library, so that flux-python's own Python can be imported without it.

With it flux-mcp's validators work as they do with Flux, as Flux's parsers of options and directives
are Python. Nothing that would talk to a Flux instance works.
"""
