"""Cryptography behind narrow doors: digests, AEAD, keys, JOSE."""
