"""The smoke test of the built image: the world around it, its boots, and the verdict."""
