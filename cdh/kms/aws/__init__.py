"""AWS KMS, and AWS Secrets Manager."""
