"""How we talk to registries: rules, credentials, requests."""
