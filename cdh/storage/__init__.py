"""Volumes: what a caller asks to have mounted."""
