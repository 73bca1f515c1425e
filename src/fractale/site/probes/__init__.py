"""Probes: each looks for one thing on this machine.

A probe reads only and has a time limit. It never raises: a thing works, is broken (with the
reason), or is absent.
"""
