"""`python -m orchestrator.cli`: the same as `sagabox`."""

from orchestrator.cli import main

main(prog_name="sagabox")
