"""`python -m migrations`."""

from migrations.cli import main

main(prog_name="python -m migrations")
