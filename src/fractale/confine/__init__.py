"""Run a program that reads nothing private, writes only where allowed, and has no network.

- `ways`: states what a confined program may do, finds how this machine can enforce it, and builds
  the command to start instead of the program.
- `view`: computes which files the program sees.
- `launch`: confines itself and becomes the program. It runs without fractale's dependencies.
"""
