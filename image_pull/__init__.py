"""The image puller: fetches, verifies, decrypts and unpacks OCI images inside the guest."""
