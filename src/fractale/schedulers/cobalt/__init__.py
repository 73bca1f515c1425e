"""Cobalt, the scheduler of Argonne's former machines. fractale only reads its scripts."""
