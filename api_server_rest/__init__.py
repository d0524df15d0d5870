"""The REST shim: secrets, tokens and evidence for containers on 127.0.0.1:8006."""
