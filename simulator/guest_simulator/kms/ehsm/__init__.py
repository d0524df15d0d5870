"""Intel eHSM-KMS."""
