"""Run a program so that it reads nothing private, writes where it may, and has no network.

- `ways`: what a confined program may do, how this machine can hold it to that, and what is to be
  started in the program's place.
- `view`: which files it sees.
- `launch`: confines itself and becomes the program. It runs without fractale's dependencies.
"""
