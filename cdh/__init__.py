"""The confidential data hub: gets the guest its secrets and keys."""
