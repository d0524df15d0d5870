"""The key provider: layer keys wrapped and unwrapped with key encryption keys."""
