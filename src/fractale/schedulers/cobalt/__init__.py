"""Cobalt, of Argonne's former machines: its scripts are read."""
