"""``python -m vitalake``."""

from vitalake.command import run

run()
