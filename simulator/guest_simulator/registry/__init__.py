"""An OCI distribution registry that can be told to misbehave."""
