"""Alibaba Cloud: a KMS instance, the shared gateways, the metadata server."""
