"""The key broker service's protocol, as its client sees it."""
