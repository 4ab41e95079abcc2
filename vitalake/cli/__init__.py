"""The frame of the ``vitalake`` command: its entry, options and output. Slow imports happen inside the subcommands."""
