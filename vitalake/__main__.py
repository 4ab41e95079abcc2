"""``python -m vitalake``."""

from vitalake.cli.app import run

run()
