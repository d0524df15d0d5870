"""Hygon machines that do not exist: CSV guests and accelerators."""
