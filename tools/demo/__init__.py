"""The main job on this machine: an encrypted image is pulled after attestation, a secret read."""
