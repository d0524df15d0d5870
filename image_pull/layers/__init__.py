"""Layers: decompressed, verified and unpacked by jailed workers."""
