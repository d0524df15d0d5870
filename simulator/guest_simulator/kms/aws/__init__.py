"""AWS: KMS and Secrets Manager."""
