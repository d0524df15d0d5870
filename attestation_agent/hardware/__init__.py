"""Kernel interfaces of TEEs and their devices."""
