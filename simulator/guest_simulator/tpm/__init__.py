"""TPMs: swtpm with an attestation key, a relay that watches and disturbs, Azure's paravisor."""
