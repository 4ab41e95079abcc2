"""The ``vitalake`` command: one module a group of subcommands; heavy imports happen inside the commands."""
