"""``python -m fractale.cli``: the command line without its script."""

from fractale.cli import main

main()
