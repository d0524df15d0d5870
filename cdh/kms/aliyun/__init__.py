"""Alibaba Cloud KMS: the dedicated gateway of an instance, and the shared gateway of a region."""
