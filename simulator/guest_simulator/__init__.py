"""The world around the guest: a KBS, a registry and images, for tests, demo and benches only."""
