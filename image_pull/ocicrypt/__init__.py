"""OCI image encryption: annotations, key unwrapping, the layer cipher."""
