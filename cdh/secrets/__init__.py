"""Sealed secrets: what they are, how they are opened, how an owner makes them."""
