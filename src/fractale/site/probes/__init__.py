"""Probes: each looks for one thing on this machine.

A probe only reads and has a time limit. It never raises: it reports that the thing works, is broken
(with the reason), or is absent.
"""
