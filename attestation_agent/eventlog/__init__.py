"""The runtime event log: its records, its replay and its crash-safe file."""
