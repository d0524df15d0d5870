"""The messages of the wire: generated classes, and the methods that carry them."""
