"""A key broker service that really checks, with cryptography of its own."""
