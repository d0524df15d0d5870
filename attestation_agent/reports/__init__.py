"""Layouts of hardware reports and of the messages that carry them."""
