"""Lets ``python -m vitalake`` run the command."""

from vitalake.command import run

run()
