"""A simulated TDX guest: its registers, its kernel's interfaces, its quoting service."""
