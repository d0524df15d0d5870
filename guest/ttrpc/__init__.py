"""ttRPC, both roles: frames, connections, server and channel."""
