"""The attestation agent: proves what this guest is."""
