"""What the smoke test runs inside the booted image."""
