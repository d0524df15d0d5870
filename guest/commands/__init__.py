"""The subcommands of `guest`."""
