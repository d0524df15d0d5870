"""Builds, measures and boots the pod VM image of this project; see ../README.md."""
