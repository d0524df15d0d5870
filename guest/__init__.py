"""The shared runtime of the in-guest services, and the one command over everything."""
