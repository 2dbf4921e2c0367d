"""Runs the command line as ``python -m client.cli``."""

from . import main

main()
